"""Writes the layouts of images into a rendered conversation: tags as text, visual tokens as image tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hdvl.protocols import Layout, Rendered, token_count

Span = tuple[int, int]


@dataclass(frozen=True)
class Expanded:
    """A conversation with the layout of each image in place of its placeholder.

    Attributes:
        rendered: the text, in which one image token stands for each run of visual tokens.
        regions: (start, stop) of each image's layout in the text, in characters.
        counts: the number of visual tokens for each image token of the text, in order.
    """

    rendered: Rendered
    regions: tuple[Span, ...]
    counts: tuple[int, ...]


def expand(rendered: Rendered, image_token: str, layouts: Sequence[Layout]) -> Expanded:
    """Replace the placeholder of each image, the image token, by the image's layout.

    Spans are moved with the text. The placeholder of an image without tags is unchanged.

    Raises:
        ValueError: images and placeholders differ in number, an image has no visual token, or a tag
            contains the image token.
    """
    places = find_placeholders(rendered, image_token)
    if len(places) != len(layouts):
        raise ValueError(
            f"images must be as many as image placeholders, got {len(layouts)} images and "
            f"{len(places)} placeholders in: {show(rendered)}"
        )
    totals = [token_count(layout) for layout in layouts]
    if any(total < 1 for total in totals):
        raise ValueError(f"every image must have at least one token, got {totals}")
    written = [_write(layout, image_token) for layout in layouts]
    pieces, regions, done, length = list[str](), list[Span](), 0, 0
    for start, text in zip(places, written, strict=True):
        length += start - done
        pieces += [rendered.text[done:start], text]
        regions.append((length, length + len(text)))
        done, length = start + len(image_token), length + len(text)
    grown = [len(text) - len(image_token) for text in written]
    return Expanded(
        rendered=replace(
            rendered,
            text="".join([*pieces, rendered.text[done:]]),
            spans=moved(rendered.spans, places, grown),
            literal=moved(rendered.literal, places, grown),
        ),
        regions=tuple(regions),
        counts=tuple(
            piece for layout in layouts for piece in layout if isinstance(piece, int) and piece
        ),
    )


def find_placeholders(rendered: Rendered, image_token: str) -> list[int]:
    """The positions of image tokens in the text. Literal spans are skipped: they are ordinary text."""
    edges = [0, *(edge for span in sorted(rendered.literal) for edge in span), len(rendered.text)]
    found = list[int]()
    for start, stop in list(pairwise(edges))[::2]:
        place = rendered.text.find(image_token, start, stop)
        while place >= 0:
            found.append(place)
            place = rendered.text.find(image_token, place + len(image_token), stop)
    return found


def show(rendered: Rendered) -> str:
    """The text for an error message, shortened if it is long."""
    return repr(rendered.text if len(rendered.text) <= 2000 else rendered.text[:2000] + "...")


def _write(layout: Layout, image_token: str) -> str:
    tagged = [piece for piece in layout if isinstance(piece, str) and image_token in piece]
    if tagged:
        raise ValueError(f"tags of a merger must not hold the image token, got {tagged[0]!r}")
    return "".join(piece if isinstance(piece, str) else image_token for piece in layout if piece)


def moved(
    spans: Sequence[Span], places: Sequence[int], grown: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """``spans`` after the pieces of text at ``places`` became longer by ``grown`` characters each."""

    def shifted(edge: int) -> int:
        return edge + sum(more for place, more in zip(places, grown, strict=True) if place < edge)

    return tuple((shifted(start), shifted(stop)) for start, stop in spans)
