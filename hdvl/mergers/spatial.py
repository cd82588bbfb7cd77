"""Tiles put back as one image after the bridge."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hdvl.mergers.image import ImageMerger, check_tiles, window_features
from hdvl.protocols import FeatureMap, Features, Grid, TilePlan


class Spatial(ImageMerger):
    """Each tile passes the bridge by itself; then rows of tokens run across the tiles (LLaVA-NeXT).

    ``newline`` ends each row with a learned embedding, ``positions="sincos2d"`` adds to each token
    where in the source image it looks.

    Raises:
        ValueError: a plan whose windows overlap.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""
        self.check_grid(plan)
        size = plan.tile_size
        apart = tuple((x * size, y * size) for y in range(plan.rows) for x in range(plan.cols))
        if plan.windows != apart:
            raise ValueError(
                f"windows must stand side by side, got stride={plan.stride} for "
                f"tile_size={size} on canvas {plan.canvas}; use merger=overlap_blend"
            )
        rows, cols = self.out_grid(self.grid)
        return plan.rows * rows, plan.cols * cols

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """One map of all tiles; the thumbnail apart, behind it, where its size is another."""
        check_tiles(features, plan)
        self.image_grid(plan)
        if not isinstance(features, list):
            return [FeatureMap(features, self.grid)]
        maps = [FeatureMap(window_features(features, plan), self.grid)]
        return [*maps, self.thumbnail_map(features, plan)] if plan.thumbnail else maps

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Rows of the image, the thumbnail before or after them."""
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
