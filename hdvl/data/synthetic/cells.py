"""Dense reading labels: what stands in every cell of a page, which the renderer knows.

They pre-train an encoder without any language model: each cell of ``cell`` pixels is labelled with
the character whose glyph covers its centre, and where that glyph lies.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.data.synthetic import words
from hdvl.data.synthetic.documents import Document


@lru_cache(maxsize=1)
def classes() -> dict[str, int]:
    """Character -> class; class 0 is "nothing here"."""
    return {char: index for index, char in enumerate(words.alphabet(), start=1)}


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
