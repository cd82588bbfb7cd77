"""Finds boxes in the text of training data, rewrites them for another codec, and checks them."""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from hdvl.protocols import Box, BoxCodec, GroundedBox
from hdvl.templates import Unit

Sizes = Sequence[tuple[int, int]]
_NUMBER = r"-?\d+(?:\.\d+)?"
# Programs may write these instead of a number: "nan", "-inf", "1e+30".
_MAYBE = rf"(?i:[-+]?(?:nan|inf(?:inity)?)|[-+]?{_NUMBER}(?:e[-+]?\d+)?)"
_PIECE = re.compile(
    r"(?:<ref>(?P<label>[^<]*)</ref>)?"
    r"(?P<shape><(?P<tag>box|quad)>(?:[^<]|<loc_\d+>)*(?:</(?P=tag)>)?)"
    rf"|(?P<bracket>\[\s*{_MAYBE}(?:\s*,\s*{_MAYBE}){{3}}\s*\])"
)
_IMAGE_NUMBER = re.compile(r"\b(?:Picture |Image-)\d+:")


def holds_boxes(text: str) -> bool:
    """Whether a piece of ``text`` looks like a box."""
    return _PIECE.search(text) is not None


def rewrite_boxes(text: str, written: BoxCodec, boxes: BoxCodec, sizes: Sizes) -> str:
    """Rewrite the boxes of ``text`` from the codec ``written`` to the codec ``boxes``.

    A quadrilateral that ``boxes`` cannot read becomes the box around it. Text that is no box is kept.

    Args:
        text: the text of a message.
        written: the codec of the boxes in ``text``.
        boxes: the codec to write.
        sizes: (width, height) of the images shown so far.
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
    """Descriptions of what is wrong with the boxes of ``text``.

    A box must consist of numbers in the digits 0 to 9, be inside its image, have its corners in order, and
    have an area. Other boxes are not repaired by clipping or swapping, since they most likely belong to
    another image or are written in another format.

    Args:
        text: the text of a message.
        codec: the codec of the boxes in ``text``.
        sizes: (width, height) of the images shown so far.
        declared: whether the source declares this codec. Otherwise it is that of the template, and four
            whole numbers in brackets may be any list: they are not taken for a box in fractions of the
            image, nor for any box if there is no image.
    """
    pieces = list(_pieces(text, codec, sizes))
    if not declared and not codec.tokens:
        pieces = [pair for pair in pieces if sizes and not _is_list(pair[0], codec)]
    kinds = (
        ("is no box inside its image", _malformed(pieces, codec, sizes)),
        ("has its corners in the wrong order", _reversed(pieces)),
        ("has no area", _without_area(pieces)),
        ("must be written with the digits 0 to 9", _with_other_digits(pieces)),
    )
    return [f"{match[0]!r:.200} {fault}" for fault, matches in kinds for match in matches]


def wrong_boxes(text: str, codec: BoxCodec, sizes: Sizes) -> list[str]:
    """The pieces of ``text`` that start like boxes of ``codec`` but are malformed or not inside the image.

    A box is not inside the image if its numbers change when it is clipped and written again.
    """
    return [match[0] for match in _malformed(_pieces(text, codec, sizes), codec, sizes)]


Piece = tuple[re.Match[str], list[GroundedBox]]


def _pieces(text: str, codec: BoxCodec, sizes: Sizes) -> Iterator[Piece]:
    """The pieces of ``text`` that look like boxes of ``codec``, each with the boxes that the codec reads.

    The codec reads one piece at a time, with the last image number before it, so that the time does not
    grow with the square of the number of pieces.
    """
    numbers = [(match.start(), match[0]) for match in _IMAGE_NUMBER.finditer(text)]
    last = -1
    for match in _PIECE.finditer(text):
        while last + 1 < len(numbers) and numbers[last + 1][0] < match.start():
            last += 1
        if match["tag"] is not None or "<box>" not in codec.tokens:
            image = numbers[last][1] if last >= 0 else ""
            yield match, codec.decode(f"{image} {match[0]}", sizes)


def _malformed(
    pieces: Iterator[Piece] | list[Piece], codec: BoxCodec, sizes: Sizes
) -> Iterator[re.Match[str]]:
    for match, found in pieces:
        if (match["tag"] is None) == ("<box>" in codec.tokens):
            continue  # a form that this codec does not write: plain text
        if not found or not all(_inside(*pair, codec, sizes) for pair in _shapes(match, found)):
            yield match


def _reversed(pieces: list[Piece]) -> Iterator[re.Match[str]]:
    """Boxes whose corners are in the wrong order."""
    for match, found in pieces:
        if any(x0 > x1 or y0 > y1 for x0, y0, x1, y1 in _corners(match, found)):
            yield match


def _without_area(pieces: list[Piece]) -> Iterator[re.Match[str]]:
    """Boxes whose written corners span a point or a line."""
    for match, found in pieces:
        if any(x0 == x1 or y0 == y1 for x0, y0, x1, y1 in _corners(match, found)):
            yield match


def _with_other_digits(pieces: list[Piece]) -> Iterator[re.Match[str]]:
    """Boxes with digits of another script, such as full-width ones, which Python reads as numbers too."""
    for match, _ in pieces:
        numbers = match["shape"] or match["bracket"]
        if any(character.isdigit() and not character.isascii() for character in numbers):
            yield match


def _corners(match: re.Match[str], found: list[GroundedBox]) -> list[list[float]]:
    """The written numbers of each box that is no quadrilateral."""
    return [
        [float(number) for number in numbers]
        for numbers, item in _shapes(match, found)
        if not item.points
    ]


def _is_list(match: re.Match[str], codec: BoxCodec) -> bool:
    """Whether a bracket is a list of whole numbers, such as years, and no box in fractions of the image."""
    if not isinstance(codec, Unit) or match["bracket"] is None:
        return False
    numbers = [number.strip() for number in match["bracket"].strip("[] ").split(",")]
    integers = all(re.fullmatch(r"[-+]?\d+", number) for number in numbers)
    return integers and any(abs(int(number)) > 1 for number in numbers)


def _reads(codec: BoxCodec, piece: str, found: list[GroundedBox]) -> bool:
    """Whether ``codec`` reads as many quadrilaterals in ``piece`` as there are in ``found``."""
    return [bool(item.points) for item in codec.decode(piece, [(1000, 1000)])] == [True] * len(
        found
    )


def _label(label: str | None, boxes: BoxCodec) -> str:
    if label is None:
        return ""
    return f"<ref>{label}</ref>" if "<ref>" in boxes.tokens else f"{label} "


def _shapes(match: re.Match[str], found: list[GroundedBox]) -> list[tuple[list[str], GroundedBox]]:
    """For each box, the numbers as they are written, and the box that was read from them."""
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
    written: Box = (min(xs), min(ys), max(xs), max(ys))
    # Rounding may move a number by one unit of the last place that the codec writes.
    unit = max(10.0 ** -len(n.partition(".")[2]) for n in again)
    pairs = zip_longest(written, map(float, again), fillvalue=float("inf"))
    return all(abs(a - b) <= unit * 1.001 for a, b in pairs)
