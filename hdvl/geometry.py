"""How an image is cut, as pure arithmetic: what can be said of tiles before a pixel or a tensor is there.

The part of the protocols that needs no torch, so that ``hdvl tile`` starts at once. Everything here
is also a name of ``hdvl.protocols``.
"""

from dataclasses import dataclass, field
from typing import Literal

Grid = tuple[int, int]
"""(rows, cols) of patches or tokens, in raster order."""

Size = tuple[int, int]
"""(width, height) in pixels."""

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the source image; x1 and y1 are exclusive."""

Thumbnail = Literal["first", "last"] | None


@dataclass(frozen=True)
class TilePlan:
    """How one image is cut: pure arithmetic, known before a pixel is touched.

    The image (``width`` x ``height``) is resized to fill the rectangle ``content`` of the canvas; the
    rest of the canvas, if any, is padding. ``windows`` are the top-left corners of the local windows
    on the canvas, row by row, each ``tile_size`` square. A thumbnail is the whole image squashed to
    one tile; ``thumbnail`` says whether it stands before or after the windows.
    """

    width: int
    height: int
    rows: int
    cols: int
    tile_size: int
    stride: int
    canvas: tuple[int, int]
    windows: tuple[tuple[int, int], ...]
    thumbnail: Thumbnail = None
    content: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))

    def __post_init__(self) -> None:
        if self.content == (0, 0, 0, 0):
            object.__setattr__(self, "content", (0, 0, *self.canvas))
        if len(self.windows) != self.rows * self.cols:
            raise ValueError(
                f"windows must number rows*cols={self.rows * self.cols}, got {len(self.windows)}"
            )

    @classmethod
    def of_grid(
        cls,
        width: int,
        height: int,
        grid: Grid,
        *,
        tile_size: int,
        thumbnail: Thumbnail = None,
        content: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> "TilePlan":
        """``grid`` = (rows, cols) windows that touch and fill the canvas, for an image of this size.

        >>> TilePlan.of_grid(640, 480, (1, 2), tile_size=448).windows
        ((0, 0), (448, 0))
        """
        rows, cols = grid
        return cls(
            width=width,
            height=height,
            rows=rows,
            cols=cols,
            tile_size=tile_size,
            stride=tile_size,
            canvas=(cols * tile_size, rows * tile_size),
            windows=tuple((c * tile_size, r * tile_size) for r in range(rows) for c in range(cols)),
            thumbnail=thumbnail,
            content=content,
        )

    @property
    def count(self) -> int:
        """Tiles that reach the encoder, the thumbnail included."""
        return len(self.windows) + (self.thumbnail is not None)

    @property
    def thumbnail_index(self) -> int | None:
        """Position of the thumbnail among the tiles."""
        if self.thumbnail is None:
            return None
        return 0 if self.thumbnail == "first" else len(self.windows)

    @property
    def window_slice(self) -> slice:
        """Positions of the local windows among the tiles."""
        start = 1 if self.thumbnail == "first" else 0
        return slice(start, start + len(self.windows))

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The source rectangle that each tile shows, in tile order (parts in padding lie outside)."""
        size = self.tile_size
        local = [
            (*self.to_source(x, y), *self.to_source(x + size, y + size)) for x, y in self.windows
        ]
        whole = (0.0, 0.0, float(self.width), float(self.height))
        if self.thumbnail == "first":
            return (whole, *local)
        return (*local, whole) if self.thumbnail == "last" else tuple(local)

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Canvas point to source point."""
        x0, y0, x1, y1 = self.content
        return (x - x0) * self.width / (x1 - x0), (y - y0) * self.height / (y1 - y0)

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Source point to canvas point."""
        x0, y0, x1, y1 = self.content
        return x0 + x * (x1 - x0) / self.width, y0 + y * (y1 - y0) / self.height

    def token_box(self, tile: int, row: int, col: int, grid: Grid) -> Box:
        """The source rectangle under token (``row``, ``col``) of ``tile`` when a tile has ``grid`` tokens."""
        x0, y0, x1, y1 = self.boxes[tile]
        step_x, step_y = (x1 - x0) / grid[1], (y1 - y0) / grid[0]
        left, top = x0 + col * step_x, y0 + row * step_y
        return left, top, left + step_x, top + step_y
