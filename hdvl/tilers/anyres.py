"""AnyRes tiling of LLaVA-NeXT: the image is resized in proportion to the best of several canvases."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdvl.geometry import Grid, Thumbnail, TilePlan
from hdvl.images import Colour
from hdvl.tilers.base import MEAN, Cutter, FromModel, check_choice, check_image
from hdvl.tilers.squash import Fit, Squash
from hdvl.tilers.thumbnails import ThumbnailCutter

if TYPE_CHECKING:
    from hdvl.protocols import Tiler
else:  # a plan needs no torch
    Tiler = Any

LLAVA_NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


@dataclass(frozen=True, kw_only=True)
class AnyRes(ThumbnailCutter):
    """Resizes an image in proportion to one of several canvases, centres it on black and cuts tiles.

    Of the canvases the one that keeps most pixels of the image is chosen; among equal ones that with the
    least padding, then the first. Published as LLaVA-NeXT,
    https://llava-vl.github.io/blog/2024-01-30-llava-next.

    Attributes:
        grids: (rows, cols) of tiles of each canvas; the published "grid pinpoints" divided by the tile
            size.
        max_tiles: canvases of more tiles are not used; the thumbnail is not counted.
        several_fit: if a conversation has several images, each is shown in one tile, fitted as by
            :class:`hdvl.tilers.Squash` (LLaVA-OneVision, arXiv 2408.03326). ``None`` cuts them like
            single images.
        several_padding: colour of the padding with ``several_fit``.

    Example::

        1000 x 600, 2 x 2 tiles of 336           0            336          672
                                               0 ┌─────────────┬────────────┐
                                                 │      1      │     2      │  (0: the thumbnail)
        the image fills 672 x 404          134 ├╌╌╌╌╌╌╌╌╌╌╌╌╌┼╌╌╌╌╌╌╌╌╌╌╌╌┤
        (plan.content), the bands above      336 ├─────────────┼────────────┤
        and below it are black               538 ├╌╌╌╌╌╌╌╌╌╌╌╌╌┼╌╌╌╌╌╌╌╌╌╌╌╌┤
                                                 │      3      │     4      │
                                             672 └─────────────┴────────────┘
    """

    tile_size: FromModel = 336
    grids: Sequence[Sequence[int]] = LLAVA_NEXT_GRIDS
    max_tiles: int = 4
    thumbnail: Thumbnail = "first"
    several_fit: Fit | None = None
    several_padding: Colour | Literal["mean"] = (0, 0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.several_fit is not None:
            check_choice("several_fit", self.several_fit, get_args(Fit))
        self._set_colour("several_padding", (MEAN,))
        object.__setattr__(self, "grids", tuple((rows, cols) for rows, cols in self.grids))
        if any(rows < 1 or cols < 1 for rows, cols in self.grids):
            raise ValueError(f"grids must hold pairs of rows and cols >= 1, got {self.grids}")
        if not self._allowed():
            raise ValueError(
                f"grids must hold one of at most max_tiles={self.max_tiles} tiles, "
                f"got {self.grids}; raise max_tiles or add a smaller grid"
            )

    def for_images(self, count: int) -> Tiler:
        """Return the tiler for each image of a conversation with ``count`` images."""
        if count < 2 or self.several_fit is None:
            return self
        shared = {entry.name: getattr(self, entry.name) for entry in fields(Cutter)}
        return Squash(**shared | {"fit": self.several_fit, "padding": self.several_padding})

    def _allowed(self) -> list[Grid]:
        return [(rows, cols) for rows, cols in self.grids if rows * cols <= self.max_tiles]

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> plan = AnyRes().plan(1000, 600)
        >>> plan.rows, plan.cols, plan.canvas, plan.content, plan.count
        (2, 2, (672, 672), (0, 134, 672, 538), 5)

        >>> plan = AnyRes().plan(800, 800)
        >>> plan.boxes[1:3]  # behind the thumbnail
        ((0.0, 0.0, 400.0, 400.0), (400.0, 0.0, 800.0, 400.0))
        """
        check_image(width, height)
        rows, cols = max(self._allowed(), key=lambda grid: self._rank(grid, width, height))
        canvas = (cols * self.tile_size, rows * self.tile_size)
        new_width, new_height = _fit(width, height, canvas)
        left, top = (canvas[0] - new_width) // 2, (canvas[1] - new_height) // 2
        plan = TilePlan.of_grid(
            width,
            height,
            (rows, cols),
            tile_size=self.tile_size,
            thumbnail=self.thumbnail,
            content=(left, top, left + new_width, top + new_height),
        )
        return self.with_thumbnail(plan)

    def _rank(self, grid: Grid, width: int, height: int) -> tuple[int, int]:
        """Return the rank of a canvas: (kept pixels of the image, minus pixels of padding)."""
        rows, cols = grid
        canvas_width, canvas_height = cols * self.tile_size, rows * self.tile_size
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas_width * canvas_height


def _fit(width: int, height: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the image on the canvas: one side fills the canvas, the other is rounded up."""
    scale_x, scale_y = canvas[0] / width, canvas[1] / height
    if scale_x < scale_y:
        return canvas[0], min(ceil(height * scale_x), canvas[1])
    return min(ceil(width * scale_y), canvas[0]), canvas[1]
