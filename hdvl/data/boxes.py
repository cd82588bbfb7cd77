"""Boxes in the text of data: found, written anew for another codec, and checked."""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from hdvl.protocols import Box, BoxCodec, GroundedBox
from hdvl.templates import Unit

Sizes = Sequence[tuple[int, int]]
_NUMBER = r"-?\d+(?:\.\d+)?"
# What stands in place of a number where a program has written the box: "nan", "-inf", "1e+30".
_MAYBE = rf"(?i:[-+]?(?:nan|inf(?:inity)?)|[-+]?{_NUMBER}(?:e[-+]?\d+)?)"
_PIECE = re.compile(
    r"(?:<ref>(?P<label>[^<]*)</ref>)?"
    r"(?P<shape><(?P<tag>box|quad)>(?:[^<]|<loc_\d+>)*(?:</(?P=tag)>)?)"
    rf"|(?P<bracket>\[\s*{_MAYBE}(?:\s*,\s*{_MAYBE}){{3}}\s*\])"
)
_IMAGE_NUMBER = re.compile(r"\b(?:Picture |Image-)\d+:")


def holds_boxes(text: str) -> bool:
    """Whether something in ``text`` looks like a box."""
    return _PIECE.search(text) is not None


def rewrite_boxes(text: str, written: BoxCodec, boxes: BoxCodec, sizes: Sizes) -> str:
    """``text`` with its boxes as ``boxes`` writes them; in ``text`` they stand as ``written`` reads them.

    ``sizes`` are (width, height) of the images shown so far. What ``boxes`` has no way to say (a
    quadrilateral it cannot read) becomes the box around it; what is no box stays as it is.
    """
    pieces, done = list[str](), 0
    for match, found in _pieces(text, written, sizes):
        if not found or (any(item.points for item in found) and _reads(boxes, match[0], found)):
            continue
        pieces += [text[done : match.start()], _label(match["label"], boxes)]
        pieces += [boxes.encode(item.box, *sizes[item.image]) for item in found]
        done = match.end()
    return "".join([*pieces, text[done:]])


def box_faults(text: str, codec: BoxCodec, sizes: Sizes, *, declared: bool) -> list[str]:
    """What is wrong with the boxes of ``text``, in words.

    A box must be of numbers, lie in its image, and have its corners in order: one that does not is more
    likely of another image, or of another way of writing boxes, than a slip that clipping or swapping
    mends.

    ``declared`` says that the source writes its boxes as ``codec`` does. Otherwise the codec is the
    template's, and four whole numbers in brackets may be any list: they are not taken for a box in
    parts of the image, and without an image for none at all.
    """
    pieces = list(_pieces(text, codec, sizes))
    if not declared and not codec.tokens:
        pieces = [pair for pair in pieces if sizes and not _is_list(pair[0], codec)]
    return [
        f"{match[0]!r:.200} is no box inside its image" for match in _wrong(pieces, codec, sizes)
    ] + [f"{match[0]!r:.200} has its corners in the wrong order" for match in _reversed(pieces)]


def wrong_boxes(text: str, codec: BoxCodec, sizes: Sizes) -> list[str]:
    """The pieces of ``text`` that begin like boxes of ``codec`` and are none, or leave the image.

    A box leaves the image if its numbers change when it is clipped and written again.
    """
    return [match[0] for match in _wrong(_pieces(text, codec, sizes), codec, sizes)]


Piece = tuple[re.Match[str], list[GroundedBox]]


def _pieces(text: str, codec: BoxCodec, sizes: Sizes) -> Iterator[Piece]:
    """What looks like a box of ``codec`` in ``text``, and the boxes that the codec reads there.

    The codec is shown one piece at a time, behind the number of the image that stands before it, so that
    the time does not grow with the square of their number.
    """
    numbers = [(match.start(), match[0]) for match in _IMAGE_NUMBER.finditer(text)]
    last = -1
    for match in _PIECE.finditer(text):
        while last + 1 < len(numbers) and numbers[last + 1][0] < match.start():
            last += 1
        if match["tag"] is not None or "<box>" not in codec.tokens:
            image = numbers[last][1] if last >= 0 else ""
            yield match, codec.decode(f"{image} {match[0]}", sizes)


def _wrong(
    pieces: Iterator[Piece] | list[Piece], codec: BoxCodec, sizes: Sizes
) -> Iterator[re.Match[str]]:
    for match, found in pieces:
        if (match["tag"] is None) == ("<box>" in codec.tokens):
            continue  # another codec's sign: plain text to this one
        if not found or not all(_inside(*pair, codec, sizes) for pair in _shapes(match, found)):
            yield match


def _reversed(pieces: list[Piece]) -> Iterator[re.Match[str]]:
    """Boxes that are right but for the order of their corners."""
    for match, found in pieces:
        shapes = [
            [float(number) for number in numbers]
            for numbers, item in _shapes(match, found)
            if not item.points
        ]
        if any(x0 > x1 or y0 > y1 for x0, y0, x1, y1 in shapes):
            yield match


def _is_list(match: re.Match[str], codec: BoxCodec) -> bool:
    """Whether a bracket is a list of whole numbers, such as years, and no box in parts of the image."""
    if not isinstance(codec, Unit) or match["bracket"] is None:
        return False
    numbers = [number.strip() for number in match["bracket"].strip("[] ").split(",")]
    whole = all(re.fullmatch(r"[-+]?\d+", number) for number in numbers)
    return whole and any(abs(int(number)) > 1 for number in numbers)


def _reads(codec: BoxCodec, piece: str, found: list[GroundedBox]) -> bool:
    """Whether ``codec`` finds as many quadrilaterals in ``piece``."""
    return [bool(item.points) for item in codec.decode(piece, [(1000, 1000)])] == [True] * len(
        found
    )


def _label(label: str | None, boxes: BoxCodec) -> str:
    if label is None:
        return ""
    return f"<ref>{label}</ref>" if "<ref>" in boxes.tokens else f"{label} "


def _shapes(match: re.Match[str], found: list[GroundedBox]) -> list[tuple[list[str], GroundedBox]]:
    """The numbers of each box as they are written, beside the box that was read from them."""
    numbers = re.findall(_NUMBER, match["shape"] or match["bracket"])
    shares = list[tuple[list[str], GroundedBox]]()
    for item in found:
        count = 2 * len(item.points) or 4
        shares.append((numbers[:count], item))
        numbers = numbers[count:]
    return shares


def _inside(numbers: list[str], item: GroundedBox, codec: BoxCodec, sizes: Sizes) -> bool:
    again = re.findall(_NUMBER, codec.encode(item.box, *sizes[item.image]))
    xs, ys = [float(n) for n in numbers[::2]], [float(n) for n in numbers[1::2]]
    if min(*xs, *ys) < 0:
        return False
    said: Box = (min(xs), min(ys), max(xs), max(ys))
    # Rounding may move a number by one unit of the last place that the codec writes.
    unit = max(10.0 ** -len(n.partition(".")[2]) for n in again)
    pairs = zip_longest(said, map(float, again), fillvalue=float("inf"))
    return all(abs(a - b) <= unit * 1.001 for a, b in pairs)
