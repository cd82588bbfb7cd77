"""Dense reading labels: what stands in every cell of a page, which the renderer knows.

They pre-train an encoder without any language model: each cell of ``cell`` pixels is labelled with
the character whose glyph covers its centre, and where that glyph lies.
"""

from functools import lru_cache
from itertools import groupby
from operator import attrgetter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.data.synthetic import words
from hdvl.data.synthetic.documents import Document


@lru_cache(maxsize=1)
def classes() -> dict[str, int]:
    """Character -> class; class 0 is "nothing here"."""
    return {char: index for index, char in enumerate(words.alphabet(), start=1)}


def word_labels(
    document: Document, *, cell: tuple[int, int] = (16, 32), slots: int = 12
) -> Int[Tensor, "rows cols slots"]:
    """The classes of the first ``slots`` characters of the word that starts in each cell.

    ``cell`` is (height, width) in pixels; a word starts where the centre of its first glyph lies. 0
    where no character is; of two words that start in one cell the later one counts.
    """
    width, height = document.image.size
    labels = torch.zeros(height // cell[0], width // cell[1], slots, dtype=torch.long)
    for _, group in groupby(document.glyphs, key=attrgetter("word")):
        glyphs = list(group)
        x0, y0, x1, y1 = glyphs[0].box
        row, col = int((y0 + y1) / 2) // cell[0], int((x0 + x1) / 2) // cell[1]
        if 0 <= row < labels.shape[0] and 0 <= col < labels.shape[1]:
            word = [classes()[glyph.char] for glyph in glyphs[:slots]]
            labels[row, col] = 0
            labels[row, col, : len(word)] = torch.tensor(word)
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
