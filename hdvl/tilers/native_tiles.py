"""Tiling of LFM2-VL: one native view of a small image; tiles and a native thumbnail of a large one."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd

from hdvl.geometry import Grid, Thumbnail, TilePlan
from hdvl.tilers.base import Cutter, FromModel, check_image, check_thumbnail
from hdvl.tilers.dynamic_ratio import nearest_grid
from hdvl.tilers.native import nearest_size


@dataclass(frozen=True, kw_only=True)
class NativeTiles(Cutter):
    """Resizes a small image to one native view; cuts a large one into square tiles and a native thumbnail.

    An image is large if it has more than ``tolerance`` times ``max_patches`` cells of ``multiple_of`` x
    ``multiple_of`` pixels. Its tiles are those of :class:`hdvl.tilers.DynamicRatio`, and its thumbnail is
    the view of :class:`hdvl.tilers.Native`. A grid of one tile has no thumbnail. The encoder must support
    oblong views (``Encoder.grid_for``).

    Published as LFM2-VL (https://www.liquid.ai/blog/lfm2-vl-efficient-vision-language-models). ::

        600 x 400: one view of 608 x 384
        1600 x 900: 2 rows x 4 cols of 512 and a thumbnail of 672 x 384

    Attributes:
        multiple_of: the sides of native views are multiples of it; the encoder's patch size times the
            factor of the bridge, which it is in a model if ``None`` is given.
        min_patches: the fewest cells of a native view; smaller images are enlarged.
        max_patches: the most cells of a native view; larger images are shrunk.
        tolerance: an image is cut into tiles if it has more than this many times ``max_patches`` cells.
        smallest_side: the length in pixels of a side that rounds to zero cells, when deciding whether an
            image is large; the encoder's patch size, as published.
        min_tiles: the fewest tiles of a large image.
        max_tiles: the most tiles of a large image; the thumbnail is not counted.
        thumbnail: whether the thumbnail stands before or after the tiles; ``None`` for no thumbnail.
        split: whether large images are cut into tiles.
    """

    tile_size: FromModel = 512
    multiple_of: FromModel = 32
    min_patches: int = 64
    max_patches: int = 256
    tolerance: float = 2.0
    smallest_side: int = 16
    min_tiles: int = 2
    max_tiles: int = 10
    thumbnail: Thumbnail = "last"
    split: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiple_of is None:
            self._set_default("multiple_of", gcd(self.tile_size, 32))
        check_thumbnail(self.thumbnail)
        for name in ("multiple_of", "smallest_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.tile_size % self.multiple_of:
            raise ValueError(
                f"tile_size must be a multiple of multiple_of={self.multiple_of}, got {self.tile_size}"
            )
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        for least, most in (("min_patches", "max_patches"), ("min_tiles", "max_tiles")):
            if not 1 <= getattr(self, least) <= getattr(self, most):
                raise ValueError(
                    f"{least} must be in 1..{most}={getattr(self, most)}, got {getattr(self, least)}"
                )

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> NativeTiles().plan(600, 400).sizes
        ((608, 384),)
        >>> plan = NativeTiles().plan(1600, 900)
        >>> plan.rows, plan.cols, plan.sizes[-1]
        (2, 4, (672, 384))
        """
        check_image(width, height)
        tile_cells = (self.tile_size // self.multiple_of) ** 2 if self.split else 0
        view_size = nearest_size(
            (width, height),
            self.multiple_of,
            self.min_patches,
            self.max_patches,
            limit=max(self.max_patches, tile_cells),
        )
        if not self._is_large(width, height):
            return TilePlan.of_view(width, height, view_size)
        grids = _grids_as_published(self.min_tiles, self.max_tiles)
        grid = nearest_grid((width, height), self.tile_size, grids)
        thumbnail = self.thumbnail if grid != (1, 1) else None
        plan = TilePlan.of_grid(width, height, grid, tile_size=self.tile_size, thumbnail=thumbnail)
        return plan if thumbnail is None else replace(plan, thumbnail_size=view_size)

    def _is_large(self, width: int, height: int) -> bool:
        """Return whether the image is cut into tiles."""
        if not self.split or self.max_tiles == 1:
            return False
        step = self.multiple_of
        wide, high = (
            max(self.smallest_side, round(side / step) * step) for side in (width, height)
        )
        return wide * high > self.max_patches * step * step * self.tolerance


@lru_cache
def _grids_as_published(least: int, most: int) -> tuple[Grid, ...]:
    """Return all (rows, cols) of ``least`` to ``most`` tiles, smallest first, in the published order.

    If two grids of the same number of tiles are equally near to an image, their order decides. In the
    published code this is the order of a Python set of (cols, rows), which depends on how the set was
    filled. The set is therefore filled in the same way here.
    """
    pairs = {
        (cols, rows)
        for number in range(least, most + 1)
        for cols in range(1, number + 1)
        for rows in range(1, number + 1)
        if least <= cols * rows <= most
    }
    return tuple((rows, cols) for cols, rows in sorted(pairs, key=lambda pair: pair[0] * pair[1]))
