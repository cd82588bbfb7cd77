"""Concatenation of the tokens of all views."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.mergers.image import check_tiles
from hdvl.mergers.places import view_places
from hdvl.mergers.tags import Tags, image_layout, tile_pieces
from hdvl.protocols import Box, FeatureMap, Features, Grid, Layout, Size, TilePlan, token_count


class Concat(nn.Module):
    """Concatenates the tokens of all views, in the order of the plan and in raster order within each.

    XVERSE-V and InternVL combine their tiles in this way; with ``tags`` between the tiles so do Idefics3,
    SmolVLM, Aya Vision and LFM2-VL. Views may have any size that the encoder supports.

    Args:
        grid: (rows, cols) of the encoder's features of a tile.
        out_grid: returns the bridge's grid of tokens for a grid of features.
        width: the LLM's width, which is not used.
        grid_for: returns the encoder's grid for a view of (width, height) pixels; ``grid`` for all views
            unless given.
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
        """Return one map of all views, or one map for each view if their sizes differ."""
        check_tiles(features, plan)
        if isinstance(features, list):
            return features
        return [FeatureMap(features, self._grid(plan.sizes[0]))]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Return the tokens of all views."""
        tokens = [rearrange(piece.values, "t m e -> (t m) e") for piece in maps]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens)

    def layout(self, plan: TilePlan) -> Layout:
        """Return pieces of text and numbers of visual tokens, in the order in which the LLM reads them.

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

    def places(self, plan: TilePlan) -> tuple[Box | None, ...]:
        """Return the rectangle of each visual token in pixels of the source image."""
        grids = {size: self.out_grid(self._grid(size)) for size in dict.fromkeys(plan.sizes)}
        views = (view_places(plan, view, grids[size]) for view, size in enumerate(plan.sizes))
        return tuple(chain.from_iterable(views))

    def token_count(self, plan: TilePlan) -> int:
        """Return the number of visual tokens of an image that was cut by ``plan``."""
        return token_count(self.layout(plan))
