"""Tile after tile."""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.mergers.image import check_tiles
from hdvl.protocols import FeatureMap, Grid, TilePlan


class Concat(nn.Module):
    """The tokens of each tile in raster order, tile after tile in tile order, nothing in between.

    This is how XVERSE-V and InternVL feed their tiles. ``width`` is taken for the protocol's sake.
    """

    any_token_order = True
    grid: Grid
    tile_tokens: int

    def __init__(self, *, grid: Grid, out_grid: Callable[[Grid], Grid], width: int) -> None:
        super().__init__()
        self.grid = (grid[0], grid[1])
        rows, cols = out_grid(self.grid)
        self.tile_tokens = rows * cols

    def stitch(self, features: Float[Tensor, "t n d"], plan: TilePlan) -> list[FeatureMap]:
        """One map of all tiles."""
        check_tiles(features, plan)
        return [FeatureMap(features, self.grid)]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """All tokens of all tiles."""
        return rearrange(maps[0].values, "t m e -> (t m) e")

    def token_count(self, plan: TilePlan) -> int:
        """Tokens that an image cut by ``plan`` takes."""
        return plan.count * self.tile_tokens
