"""Labels for reading at every position of a page, which are known because the page was rendered.

An encoder can be pre-trained on them without a language model. Each cell of ``cell`` x ``cell`` pixels is
labelled with the character whose glyph covers its centre, and with the position of that glyph.
"""

import math
import string
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.page import Document, Glyph


@lru_cache(maxsize=1)
def classes() -> dict[str, int]:
    """Character -> class; class 0 is "nothing here"."""
    chars = {*words.alphabet(), *string.ascii_letters, *string.digits, *string.punctuation, "£"}
    return {char: index for index, char in enumerate(sorted(chars), start=1)}


def token_labels(
    document: Document, *, token: tuple[int, int] = (16, 16), slots: int = 4
) -> Int[Tensor, "rows cols slots"]:
    """The classes of the first ``slots`` characters whose centres lie in each token, reading order.

    ``token`` is (height, width) in pixels; 0 fills the slots that no character takes. Tokens are
    those that lie whole on the page.
    """
    width, height = document.image.size
    rows, cols = height // token[0], width // token[1]
    labels = [[[0] * slots for _ in range(cols)] for _ in range(rows)]
    for (row, col), found in _by_token(document, token).items():
        for slot, glyph in enumerate(found[:slots]):
            labels[row][col][slot] = classes()[glyph.char]
    return torch.tensor(labels).view(rows, cols, slots)


def token_boxes(
    document: Document, *, token: tuple[int, int] = (16, 16)
) -> Float[Tensor, "rows cols four"]:
    """The ink (x0, y0, x1, y1) of the characters whose centres lie in each token, NaN without any.

    From the token's top-left corner, in tokens: 0..1 is inside, ink may reach out.
    """
    width, height = document.image.size
    rows, cols = height // token[0], width // token[1]
    boxes = [[(math.nan,) * 4] * cols for _ in range(rows)]
    for (row, col), found in _by_token(document, token).items():
        x0, y0, x1, y1 = zip(*(glyph.ink for glyph in found), strict=True)
        left, top = min(x0) / token[1] - col, min(y0) / token[0] - row
        right, bottom = max(x1) / token[1] - col, max(y1) / token[0] - row
        boxes[row][col] = left, top, right, bottom
    return torch.tensor(boxes).view(rows, cols, 4)


def token_words(
    document: Document, *, token: tuple[int, int] = (16, 16)
) -> dict[tuple[int, int], set[str]]:
    """The words, in lower case, of the characters whose centres lie in each (row, column)."""
    found = _by_token(document, token)
    return {place: {glyph.word.lower() for glyph in glyphs} for place, glyphs in found.items()}


def _by_token(document: Document, token: tuple[int, int]) -> dict[tuple[int, int], list[Glyph]]:
    """The glyphs whose centres lie in each (row, column) of tokens, in reading order.

    Only tokens that lie whole on the page are listed.
    """
    rows, cols = document.image.height // token[0], document.image.width // token[1]
    places: dict[tuple[int, int], list[Glyph]] = {}
    for glyph in document.glyphs:
        x0, y0, x1, y1 = glyph.box
        row, col = int((y0 + y1) / 2 // token[0]), int((x0 + x1) / 2 // token[1])
        if 0 <= row < rows and 0 <= col < cols:
            places.setdefault((row, col), []).append(glyph)
    return {place: _in_order(found) for place, found in places.items()}


def _in_order(glyphs: list[Glyph]) -> list[Glyph]:
    """Glyphs of one token in reading order: from left to right, a second line after the first one."""
    heights = [(glyph.box[1] + glyph.box[3]) / 2 for glyph in glyphs]
    middle = (min(heights) + max(heights)) / 2
    # On a turned page the characters of one line have different heights, by less than two lines have.
    lines = max(heights) - min(heights) > 0.4 * (glyphs[0].box[3] - glyphs[0].box[1])
    return sorted(
        glyphs,
        key=lambda glyph: (lines and (glyph.box[1] + glyph.box[3]) / 2 > middle, glyph.box[0]),
    )


def cell_labels(
    document: Document, *, cell: int = 8
) -> tuple[Int[Tensor, "rows cols"], Float[Tensor, "rows cols three"]]:
    """Class of every cell, and (dx, dy, height) of its glyph in cells.

    dx, dy: from the cell's centre to the glyph's centre; height: of the glyph's line. Cells are
    those that lie whole on the page. Glyphs without a class raise ``KeyError`` with the character.
    """
    width, height = document.image.size
    rows, cols = height // cell, width // cell
    labels = [[0] * cols for _ in range(rows)]  # lists: a tensor is slow to fill number by number
    geometry = [[(0.0, 0.0, 0.0)] * cols for _ in range(rows)]
    table = classes()
    for glyph in document.glyphs:
        x0, y0, x1, y1 = (edge / cell for edge in glyph.box)
        for row in range(max(0, round(y0)), min(rows, round(y1))):
            for col in range(max(0, round(x0)), min(cols, round(x1))):
                labels[row][col] = table[glyph.char]
                centre = (x0 + x1) / 2 - (col + 0.5), (y0 + y1) / 2 - (row + 0.5)
                geometry[row][col] = (*centre, y1 - y0)
    return torch.tensor(labels), torch.tensor(geometry)
