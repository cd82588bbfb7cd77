"""Dynamic tiling of InternVL 1.5: the grid of tiles with the aspect ratio nearest to the image's."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from hdvl.geometry import Grid, Size, Thumbnail, TilePlan
from hdvl.tilers.base import FromModel, check_image
from hdvl.tilers.thumbnails import ThumbnailCutter


@dataclass(frozen=True, kw_only=True)
class DynamicRatio(ThumbnailCutter):
    """Resizes an image to the grid of tiles with the nearest aspect ratio, without keeping proportions.

    Of two grids that are equally near, the larger one is used only if the image has more than half of the
    pixels of its canvas. An image of one tile has no thumbnail. Published in Chen et al., "How Far Are We
    to GPT-4V?", https://arxiv.org/abs/2404.16821.

    Attributes:
        min_tiles: the fewest tiles of a grid.
        max_tiles: the most tiles of a grid; the thumbnail is not counted.

    Example::

        640 x 480, max_tiles 12: 4 x 3 tiles of 448     ┌──┬──┬──┬──┐   ┌──┐
                                                        │ 0│ 1│ 2│ 3│   │  │ 12, the thumbnail
                                                        ├──┼──┼──┼──┤   └──┘
                                                        │ 4│ 5│ 6│ 7│
                                                        ├──┼──┼──┼──┤
                                                        │ 8│ 9│10│11│
                                                        └──┴──┴──┴──┘
    """

    tile_size: FromModel = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: Thumbnail = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ValueError(
                f"min_tiles must be in 1..max_tiles={self.max_tiles}, got {self.min_tiles}"
            )

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> plan = DynamicRatio(max_tiles=12).plan(1920, 1080)
        >>> plan.rows, plan.cols, plan.canvas, plan.count
        (2, 4, (1792, 896), 9)

        >>> DynamicRatio(max_tiles=12).plan(5, 5).count  # one tile, and then no thumbnail
        1
        """
        check_image(width, height)
        grid = nearest_grid((width, height), self.tile_size, _grids(self.min_tiles, self.max_tiles))
        thumbnail = self.thumbnail if grid != (1, 1) else None
        plan = TilePlan.of_grid(width, height, grid, tile_size=self.tile_size, thumbnail=thumbnail)
        return self.with_thumbnail(plan)


def nearest_grid(size: Size, tile_size: int, grids: Iterable[Grid]) -> Grid:
    """Return the grid whose aspect ratio is nearest to that of an image.

    Of equally near grids a later one is used only if the image has more than half of its pixels.

    Args:
        size: (width, height) of the image.
        tile_size: side of a tile in pixels.
        grids: the (rows, cols) to choose from.
    """
    width, height = size
    ratio, best, nearest = width / height, (1, 1), float("inf")
    for rows, cols in grids:
        distance = abs(ratio - cols / rows)
        large = 2 * width * height > tile_size**2 * rows * cols
        if distance < nearest or (distance == nearest and large):
            best, nearest = (rows, cols), distance
    return best


@lru_cache
def _grids(least: int, most: int) -> tuple[Grid, ...]:
    """Return all (rows, cols) of ``least`` to ``most`` tiles, smallest first, narrow before wide."""
    grids = [
        (rows, cols)
        for cols in range(1, most + 1)
        for rows in range(1, most // cols + 1)
        if rows * cols >= least
    ]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
