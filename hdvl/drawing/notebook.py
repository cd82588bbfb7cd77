"""Display of tiles in notebooks: side by side, as the encoder receives them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from hdvl.drawing.tiles import contact_sheet, view_names
from hdvl.geometry import Size, TilePlan
from hdvl.html import embedded

MAX_COLUMNS = 8
"""The most tiles in a row by default."""


class DrawableTiles:
    """Base of :class:`hdvl.protocols.Tiles` with methods that draw the pixels.

    Attributes:
        pixels: uint8 tensors (t, c, h, w), one for each size of view.
        plan: the plan by which they were cut.
    """

    pixels: Any
    plan: TilePlan

    def images(self) -> list[Image.Image]:
        """Return each view as an image, in the order of the plan."""
        by_size = dict[Size, Iterator[Any]]()
        for group in self.pixels if isinstance(self.pixels, tuple) else (self.pixels,):
            by_size[group.shape[3], group.shape[2]] = iter(group)
        views = (next(by_size[size]) for size in self.plan.sizes)
        return [
            Image.fromarray(np.ascontiguousarray(view.permute(1, 2, 0).cpu().numpy()))
            for view in views
        ]

    def contact_sheet(self, *, cols: int | None = None, tile_side: int = 224) -> Image.Image:
        """Draw all views side by side with their row and column; the thumbnail has a row of its own.

        Args:
            cols: windows in a row; ``None`` for as many as the grid has columns.
            tile_side: the longer side of the largest view in the drawing, in pixels.
        """
        cols = cols or min(max(self.plan.cols, 1), MAX_COLUMNS)
        named = list(zip(self.images(), view_names(self.plan), strict=True))
        windows = named[self.plan.window_slice]
        rows = [windows[first : first + cols] for first in range(0, len(windows), cols)]
        if self.plan.thumbnail_index is not None:
            rows.insert(0 if self.plan.thumbnail == "first" else len(rows), [])
            rows[0 if self.plan.thumbnail == "first" else -1].append(
                named[self.plan.thumbnail_index]
            )
        return contact_sheet(rows, tile_side=tile_side)

    def _repr_html_(self) -> str:
        sheet = embedded(self.contact_sheet(tile_side=140))
        return f'<img style="max-width: 100%" alt="the tiles side by side" src="{sheet}">'
