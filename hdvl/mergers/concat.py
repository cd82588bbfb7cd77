"""View after view."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.mergers.image import check_tiles
from hdvl.mergers.tags import Tags, image_layout, tile_pieces
from hdvl.protocols import FeatureMap, Features, Grid, Layout, Size, TilePlan, token_count


class Concat(nn.Module):
    """The tokens of each view in raster order, view after view in the order of the plan.

    This is how XVERSE-V and InternVL feed their tiles; with ``tags`` between the tiles it is how
    Idefics3, SmolVLM, Aya Vision and LFM2-VL do. Views may have any size that the encoder takes.

    Args:
        grid: the encoder's grid of a tile.
        out_grid: the bridge's map from a grid of patches to a grid of tokens.
        width: the LLM's width; taken for the protocol's sake.
        grid_for: the encoder's grid of a view of (width, height) pixels; ``grid`` for all unless given.
        tags: text around and between the views, see :class:`hdvl.mergers.tags.Tags`.
    """

    any_token_order = True
    grid: Grid
    out_grid: Callable[[Grid], Grid]
    grid_for: Callable[[Size], Grid] | None
    tags: Tags

    def __init__(
        self,
        *,
        grid: Grid,
        out_grid: Callable[[Grid], Grid],
        width: int,
        grid_for: Callable[[Size], Grid] | None = None,
        tags: Mapping[str, Any] | Tags | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.out_grid, self.grid_for = (grid[0], grid[1]), out_grid, grid_for
        self.tags = Tags.of(tags)

    def _grid(self, size: Size) -> Grid:
        return self.grid if self.grid_for is None else self.grid_for(size)

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """One map of all views, or one a view where their sizes differ."""
        check_tiles(features, plan)
        if isinstance(features, list):
            return features
        return [FeatureMap(features, self._grid(plan.sizes[0]))]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """All tokens of all views."""
        tokens = [rearrange(piece.values, "t m e -> (t m) e") for piece in maps]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens)

    def layout(self, plan: TilePlan) -> Layout:
        """Text pieces and counts of visual tokens, in the order in which the LLM reads them.

        >>> concat = Concat(
        ...     grid=(8, 8), out_grid=lambda grid: grid, width=4,
        ...     tags={"before_tile": "<row_{row}_col_{col}>", "row_end": "|",
        ...           "before_thumbnail": "<global-img>"},
        ... )
        >>> concat.layout(TilePlan.of_grid(640, 480, (1, 2), tile_size=8, thumbnail="last"))
        ('<row_1_col_1>', 64, '<row_1_col_2>', 64, '|<global-img>', 64)
        """
        grids = {size: self.out_grid(self._grid(size)) for size in dict.fromkeys(plan.sizes)}
        views = [grids[size] for size in plan.sizes]
        index = plan.thumbnail_index
        return image_layout(
            plan,
            tile_pieces(plan, views[plan.window_slice], self.tags),
            None if index is None else views[index],
            self.tags,
        )

    def token_count(self, plan: TilePlan) -> int:
        """Visual tokens that an image cut by ``plan`` takes."""
        return token_count(self.layout(plan))
