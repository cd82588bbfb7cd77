"""Boxes in the text of data: found, written anew for another codec, and checked."""

import re
from collections.abc import Sequence
from itertools import zip_longest

from hdvl.protocols import Box, BoxCodec, GroundedBox

Sizes = Sequence[tuple[int, int]]
_NUMBER = r"-?\d+(?:\.\d+)?"
_PIECE = re.compile(
    r"(?:<ref>(?P<label>[^<]*)</ref>)?(?P<shape><(?P<tag>box|quad)>[^<]*(?:</(?P=tag)>)?)"
    rf"|(?P<bracket>\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\])"
)


def holds_boxes(text: str) -> bool:
    """Whether something in ``text`` looks like a box."""
    return _PIECE.search(text) is not None


def rewrite_boxes(text: str, written: BoxCodec, boxes: BoxCodec, sizes: Sizes) -> str:
    """``text`` with its boxes as ``boxes`` writes them; in ``text`` they stand as ``written`` reads them.

    ``sizes`` are (width, height) of the images shown so far. What ``boxes`` has no way to say (a
    quadrilateral it cannot read) becomes the box around it; what is no box stays as it is.
    """
    pieces, done = list[str](), 0
    for match in _PIECE.finditer(text):
        found = _found(text, match, written, sizes)
        if not found or (any(item.points for item in found) and _reads(boxes, match[0], found)):
            continue
        pieces += [text[done : match.start()], _label(match["label"], boxes)]
        pieces += [boxes.encode(item.box, *sizes[item.image]) for item in found]
        done = match.end()
    return "".join([*pieces, text[done:]])


def wrong_boxes(text: str, codec: BoxCodec, sizes: Sizes) -> list[str]:
    """The pieces of ``text`` that begin like boxes of ``codec`` and are none, or leave the image.

    A box leaves the image if its numbers change when it is clipped and written again.
    """
    wrong = list[str]()
    for match in _PIECE.finditer(text):
        if (match["tag"] is None) == ("<box>" in codec.tokens):
            continue  # another codec's sign: plain text to this one
        found = _found(text, match, codec, sizes)
        if not found or not all(_inside(*pair, codec, sizes) for pair in _shapes(match, found)):
            wrong.append(match[0])
    return wrong


def _found(text: str, match: re.Match[str], codec: BoxCodec, sizes: Sizes) -> list[GroundedBox]:
    """The boxes of one piece; the text before it says which image they are in."""
    before = codec.decode(text[: match.start()], sizes)
    return codec.decode(text[: match.end()], sizes)[len(before) :]


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
    said: Box = (min(xs), min(ys), max(xs), max(ys))
    # Rounding may move a number by one unit of the last place that the codec writes.
    unit = max(10.0 ** -len(n.partition(".")[2]) for n in again)
    pairs = zip_longest(said, map(float, again), fillvalue=float("inf"))
    return all(abs(a - b) <= unit * 1.001 for a, b in pairs)
