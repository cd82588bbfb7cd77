"""Arrangement of the tiles' tokens as one image after the bridge (LLaVA-NeXT)."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hdvl.mergers.image import ImageMerger, check_tiles, window_features
from hdvl.protocols import FeatureMap, Features, Grid, TilePlan


class Spatial(ImageMerger):
    """Applies the bridge to each tile, then returns rows of tokens that run across the tiles (LLaVA-NeXT).

    Arguments are those of :class:`~hdvl.mergers.image.ImageMerger`.

    Raises:
        ValueError: the windows of a plan overlap.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """Return (rows, cols) of the tokens of the whole canvas, padding included."""
        self.check_grid(plan)
        size = plan.tile_size
        adjacent = tuple((x * size, y * size) for y in range(plan.rows) for x in range(plan.cols))
        if plan.windows != adjacent:
            blends = size % self.grid[0] == 0 and size % self.grid[1] == 0
            raise ValueError(
                f"windows must stand side by side, got stride={plan.stride} for tile_size={size} on canvas "
                f"{plan.canvas}; use " + ("merger=overlap_blend" if blends else "merger=concat")
            )
        rows, cols = self.out_grid(self.grid)
        return plan.rows * rows, plan.cols * cols

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """Return one map of all tiles, and a second one of the thumbnail if its size differs."""
        check_tiles(features, plan)
        self.image_grid(plan)
        if not isinstance(features, list):
            return [FeatureMap(features, self.grid)]
        maps = [FeatureMap(window_features(features, plan), self.grid)]
        return [*maps, self.thumbnail_map(features, plan)] if plan.thumbnail else maps

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Return the rows of the image, and the tokens of the thumbnail before or after them."""
        values, (rows, cols) = maps[0].values, maps[0].grid
        index, thumbnail = plan.thumbnail_index, maps[1] if len(maps) > 1 else None
        if index is not None and thumbnail is None:
            thumbnail = FeatureMap(values[index][None], (rows, cols))
            values = values[plan.window_slice]
        image = rearrange(
            values,
            "(r c) (y x) e -> (r y) (c x) e",
            r=plan.rows,
            c=plan.cols,
            y=rows,
            x=cols,
        )
        return self.sequence(image, thumbnail, plan)
