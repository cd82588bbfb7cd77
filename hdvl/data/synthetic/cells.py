"""Dense reading labels: what stands in every cell of a page, which the renderer knows.

They pre-train an encoder without any language model: each cell of ``cell`` pixels is labelled with
the character whose glyph covers its centre, and where that glyph lies.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.documents import Document


@lru_cache(maxsize=1)
def classes() -> dict[str, int]:
    """Character -> class; class 0 is "nothing here"."""
    return {char: index for index, char in enumerate(words.alphabet(), start=1)}


def token_labels(
    document: Document, *, token: tuple[int, int] = (16, 16), slots: int = 4
) -> Int[Tensor, "rows cols slots"]:
    """The classes of the first ``slots`` characters whose centres lie in each token, reading order.

    ``token`` is (height, width) in pixels; 0 fills the slots that no character takes. Tokens are
    those that lie whole on the page.
    """
    width, height = document.image.size
    labels = torch.zeros(height // token[0], width // token[1], slots, dtype=torch.long)
    places: dict[tuple[int, int], list[tuple[int, float, int]]] = {}
    for glyph in document.glyphs:
        x0, y0, x1, y1 = glyph.box
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        place = int(y) // token[0], int(x) // token[1]
        places.setdefault(place, []).append((round(y), x, classes()[glyph.char]))
    for (row, col), found in places.items():
        if 0 <= row < labels.shape[0] and 0 <= col < labels.shape[1]:
            chars = [char for _, _, char in sorted(found)[:slots]]
            labels[row, col, : len(chars)] = torch.tensor(chars)
    return labels


def cell_labels(
    document: Document, *, cell: int = 8
) -> tuple[Int[Tensor, "rows cols"], Float[Tensor, "rows cols three"]]:
    """Class of every cell, and (dx, dy, height) of its glyph in cells.

    dx, dy: from the cell's centre to the glyph's centre; height: of the glyph's line. Cells are
    those that lie whole on the page. Glyphs without a class raise ``KeyError`` with the character.
    """
    width, height = document.image.size
    rows, cols = height // cell, width // cell
    labels = torch.zeros(rows, cols, dtype=torch.long)
    geometry = torch.zeros(rows, cols, 3)
    table = classes()
    for glyph in document.glyphs:
        x0, y0, x1, y1 = (edge / cell for edge in glyph.box)
        for row in range(max(0, round(y0)), min(rows, round(y1))):
            for col in range(max(0, round(x0)), min(cols, round(x1))):
                labels[row, col] = table[glyph.char]
                geometry[row, col, 0] = (x0 + x1) / 2 - (col + 0.5)
                geometry[row, col, 1] = (y0 + y1) / 2 - (row + 0.5)
                geometry[row, col, 2] = y1 - y0
    return labels, geometry
