"""Tiles put back as one image after the bridge."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hdvl.mergers.image import ImageMerger, check_tiles
from hdvl.protocols import FeatureMap, Grid, TilePlan


class Spatial(ImageMerger):
    """Each tile passes the bridge by itself; then rows of tokens run across the tiles (LLaVA-NeXT).

    ``newline`` ends each row with a learned embedding, ``positions="sincos2d"`` adds to each token
    where in the source image it looks.

    Raises:
        ValueError: a plan whose windows overlap.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""
        size = plan.tile_size
        apart = tuple((x * size, y * size) for y in range(plan.rows) for x in range(plan.cols))
        if plan.windows != apart:
            raise ValueError(
                f"windows must stand side by side, got stride={plan.stride} for "
                f"tile_size={size} on canvas {plan.canvas}; use merger=overlap_blend"
            )
        rows, cols = self.out_grid(self.grid)
        return plan.rows * rows, plan.cols * cols

    def stitch(self, features: Float[Tensor, "t n d"], plan: TilePlan) -> list[FeatureMap]:
        """One map of all tiles."""
        check_tiles(features, plan)
        self.image_grid(plan)
        return [FeatureMap(features, self.grid)]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Rows of the image, the thumbnail before or after them."""
        values, (rows, cols) = maps[0].values, maps[0].grid
        image = rearrange(
            values[plan.window_slice],
            "(r c) (y x) e -> (r y) (c x) e",
            r=plan.rows,
            c=plan.cols,
            y=rows,
            x=cols,
        )
        index = plan.thumbnail_index
        thumbnail = None if index is None else FeatureMap(values[index][None], (rows, cols))
        return self.sequence(image, thumbnail, plan)
