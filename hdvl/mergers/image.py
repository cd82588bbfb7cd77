"""Base class of the mergers that arrange the tokens of all tiles as one image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import compress
from math import ceil, floor, prod, sqrt
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdvl.mergers.places import canvas_places, view_places
from hdvl.mergers.positions import SourcePositions
from hdvl.mergers.tags import Tags, grid_pieces, image_layout, row_pieces
from hdvl.protocols import Box, FeatureMap, Features, Grid, Layout, Size, TilePlan, token_count

PER_TILE = (
    "before_tile",
    "after_tile",
    "between_tiles",
    "row_end",
    "between_rows",
    "before_single",
    "after_single",
)
"""Tags between windows, which these mergers do not support because they join the windows."""

_RESIZE_ABOVE = 1.1
"""Tokens are resized if their sides are longer than allowed by more than this factor, as published."""


def check_tiles(features: Features, plan: TilePlan) -> None:
    """Check that there are features for each view of the plan.

    Raises:
        ValueError: the number of features differs from that of the views.
    """
    if len(features) != plan.count:
        raise ValueError(f"features must hold the plan's {plan.count} tiles, got {len(features)}")


def window_features(features: Features, plan: TilePlan) -> Float[Tensor, "_w n d"]:
    """Return the features of the windows, without those of the thumbnail."""
    windows = features[plan.window_slice]
    return torch.cat([piece.values for piece in windows]) if isinstance(windows, list) else windows


def unpadded_region(plan: TilePlan, grid: Grid) -> tuple[int, int, int, int]:
    """Return the part of the canvas' grid of tokens that shows the image: (top, bottom, left, right).

    The result equals that of LLaVA-NeXT's ``unpad_image`` for an image that was resized to fit the canvas
    and centred.

    Args:
        plan: how the image was cut.
        grid: (rows, cols) of tokens of the canvas, padding included.
    """
    (width, height), (x0, y0, x1, y1) = plan.canvas, plan.content
    fitted_height = Fraction(plan.height * (x1 - x0), plan.width)
    fitted_width = Fraction(plan.width * (y1 - y0), plan.height)
    return (
        *_unpadded_range(y0, y1, height, fitted_height, grid[0]),
        *_unpadded_range(x0, x1, width, fitted_width, grid[1]),
    )


def _unpadded_range(
    start: int, stop: int, side: int, fitted: Fraction, tokens: int
) -> tuple[int, int]:
    if stop - start == side:
        return 0, tokens
    before, after = Fraction(start), Fraction(side - stop)
    if abs(before - after) <= 1 and abs(fitted - (stop - start)) < 1:
        # For a centred image, LLaVA-NeXT computes the padding from the size before rounding to pixels.
        before = after = (side - fitted) / 2
    # Padding is rounded to whole tokens; half a token is rounded down.
    half = Fraction(1, 2)
    lead, trail = (max(0, ceil(padding * tokens / side - half)) for padding in (before, after))
    return lead, max(lead, tokens - trail)


def _centres(count: int, device: torch.device) -> Float[Tensor, " k"]:
    return (torch.arange(count, device=device) + 0.5) / count


class ImageMerger(nn.Module, ABC):
    """Base of the mergers that return one grid of tokens row by row, and the thumbnail before or after it.

    Tokens of the padding are removed.

    Args:
        grid: (rows, cols) of the encoder's features of a tile.
        out_grid: returns the bridge's grid of tokens for a grid of features.
        width: width of the LLM's embeddings.
        grid_for: returns the encoder's grid for a view of (width, height) pixels; ``grid`` for all views
            unless given.
        newline: whether each row ends with a learned embedding.
        positions: ``sincos2d`` adds to each token its position in the source image; ``none`` adds nothing.
        tags: text around the image, its windows and the thumbnail, and after each row of tokens.
        shrink_above: a number of tiles. If an image without its padding has more than 1.21 times the
            tokens of that many tiles, its tokens are resized (bilinear) in proportion to that number
            (``anyres_max_9`` of LLaVA-OneVision, arXiv 2408.03326). ``None`` for no limit.
        single_newline: ``image`` ends an image of one window without a thumbnail with a single newline
            instead of one after each row.
    """

    grid: Grid
    grid_for: Callable[[Size], Grid] | None
    out_grid: Callable[[Grid], Grid]
    tags: Tags
    newline: nn.Parameter | None
    positions: SourcePositions | None
    shrink_above: int | None
    single_newline: Literal["rows", "image"]

    def __init__(
        self,
        *,
        grid: Grid,
        out_grid: Callable[[Grid], Grid],
        width: int,
        grid_for: Callable[[Size], Grid] | None = None,
        newline: bool = True,
        positions: Literal["none", "sincos2d"] = "none",
        shrink_above: int | None = None,
        single_newline: Literal["rows", "image"] = "rows",
        tags: Mapping[str, Any] | Tags | None = None,
    ) -> None:
        super().__init__()
        if positions not in ("none", "sincos2d"):
            raise ValueError(f"positions must be none or sincos2d, got {positions!r}")
        if single_newline not in ("rows", "image"):
            raise ValueError(f"single_newline must be rows or image, got {single_newline!r}")
        if shrink_above is not None and shrink_above < 1:
            raise ValueError(
                f"shrink_above must be at least 1 tile, or null for no limit, got {shrink_above}"
            )
        self.shrink_above, self.single_newline = shrink_above, single_newline
        self.grid, self.out_grid, self.grid_for = (grid[0], grid[1]), out_grid, grid_for
        self.tags = Tags.of(tags)
        self.tags.refuse(PER_TILE, type(self).__name__)
        self.newline = nn.Parameter(torch.randn(width) * width**-0.5) if newline else None
        self.positions = SourcePositions(width=width) if positions == "sincos2d" else None

    @abstractmethod
    def image_grid(self, plan: TilePlan) -> Grid:
        """Return (rows, cols) of the tokens of the whole canvas, padding included."""

    def layout(self, plan: TilePlan) -> Layout:
        """Return pieces of text and numbers of visual tokens, in the order in which the LLM reads them."""
        grid, extra = self.image_grid(plan), int(self.newline is not None)
        top, bottom, left, right = unpadded_region(plan, grid)
        rows, cols = self._resized_grid((bottom - top, right - left))
        covered = self.covered(plan, grid)
        if covered is not None:
            lengths = covered.sum(1).tolist()
            windows = row_pieces([length + extra for length in lengths if length], self.tags)
        elif self._ends_in_newline(plan):
            windows = [*grid_pieces((rows, cols), self.tags), extra]
        else:
            windows = grid_pieces((rows, cols), self.tags, extra=extra)
        thumbnail = self.out_grid(self.thumbnail_grid(plan)) if plan.thumbnail else None
        return image_layout(plan, windows, thumbnail, self.tags)

    def places(self, plan: TilePlan) -> tuple[Box | None, ...]:
        """Return the rectangle of each visual token in pixels of the source image; newlines have none."""
        grid = self.image_grid(plan)
        top, bottom, left, right = unpadded_region(plan, grid)
        resized = self._resized_grid((bottom - top, right - left))
        rows = canvas_places(plan, grid, (left, top, right, bottom), resized)
        covered = self.covered(plan, grid)
        if covered is not None:
            kept = [list(compress(*pair)) for pair in zip(rows, covered.tolist(), strict=True)]
            rows = [row for row in kept if row]
        newline = [None] * int(self.newline is not None)
        row_end, image_end = ([], newline) if self._ends_in_newline(plan) else (newline, [])
        image = [place for row in rows for place in (*row, *row_end)] + image_end
        if plan.thumbnail_index is None:
            return tuple(image)
        size = self.out_grid(self.thumbnail_grid(plan))
        thumbnail = view_places(plan, plan.thumbnail_index, size)
        return (*thumbnail, *image) if plan.thumbnail == "first" else (*image, *thumbnail)

    def token_count(self, plan: TilePlan) -> int:
        """Return the number of visual tokens of an image that was cut by ``plan``."""
        return token_count(self.layout(plan))

    def covered(self, plan: TilePlan, grid: Grid) -> Bool[Tensor, "_r _c"] | None:
        """Return which tokens of the image without its padding the windows show; ``None`` for all of them.

        Args:
            plan: how the image was cut.
            grid: (rows, cols) of the tokens of the whole canvas.
        """
        if plan.is_grid and plan.windows:
            return None
        if self.shrink_above is not None:
            raise ValueError(
                f"{type(self).__name__} resizes tokens as one image (shrink_above={self.shrink_above}), "
                f"which needs all windows, got {len(plan.windows)} of {plan.rows}x{plan.cols}; use "
                "merger=concat"
            )
        mask, size = torch.zeros(grid, dtype=torch.bool), plan.tile_size
        steps = [Fraction(side, count) for side, count in zip(plan.canvas, grid[::-1], strict=True)]
        for x, y in plan.windows:
            (left, right), (top, bottom) = (
                (ceil(start / step), floor((start + size) / step))
                for start, step in zip((x, y), steps, strict=True)
            )
            mask[top:bottom, left:right] = True
        top, bottom, left, right = unpadded_region(plan, grid)
        return mask[top:bottom, left:right]

    def _resized_grid(self, grid: Grid) -> Grid:
        """Return the grid that the tokens of the image without its padding are resized to."""
        if self.shrink_above is None:
            return grid
        limit = self.shrink_above * prod(self.out_grid(self.grid))
        ratio = sqrt(prod(grid) / limit)
        if ratio <= _RESIZE_ABOVE:
            return grid
        return max(1, int(grid[0] // ratio)), max(1, int(grid[1] // ratio))

    def _ends_in_newline(self, plan: TilePlan) -> bool:
        """Return whether a single newline ends the image instead of one after each row."""
        return self.single_newline == "image" and plan.count == 1 and plan.is_grid

    def check_grid(self, plan: TilePlan) -> None:
        """Check that the windows of the plan form a complete grid of squares.

        Raises:
            ValueError: they do not.
        """
        if not plan.is_grid or not plan.windows:
            raise ValueError(
                f"{type(self).__name__} needs windows that form a grid of equal squares, got "
                f"{len(plan.windows)} windows of a grid of {plan.rows}x{plan.cols}; use "
                "merger=concat, or a tiler that cuts whole grids"
            )

    def thumbnail_grid(self, plan: TilePlan) -> Grid:
        """Return (rows, cols) of the encoder's features of the thumbnail."""
        size = plan.sizes[plan.thumbnail_index or 0]
        return self.grid if self.grid_for is None else self.grid_for(size)

    def thumbnail_map(self, features: Features, plan: TilePlan) -> FeatureMap:
        """Return the features of the thumbnail as a map."""
        found = features[plan.thumbnail_index or 0]
        if isinstance(found, FeatureMap):
            return found
        return FeatureMap(found[None], self.thumbnail_grid(plan))

    def sequence(
        self, image: Float[Tensor, "y x e"] | None, thumbnail: FeatureMap | None, plan: TilePlan
    ) -> Float[Tensor, "m e"]:
        """Return the tokens of the canvas row by row without padding, and those of the thumbnail.

        Args:
            image: the tokens of the canvas, padding included; ``None`` if there are no windows.
            thumbnail: the tokens of the thumbnail, if there is one.
            plan: how the image was cut.
        """
        parts = [] if image is None else [self._rows(image, plan)]
        if thumbnail is not None:
            parts.insert(plan.thumbnail != "first", self._thumbnail(thumbnail))
        return torch.cat(parts)

    def _rows(self, image: Float[Tensor, "y x e"], plan: TilePlan) -> Float[Tensor, "m e"]:
        rows, cols = image.shape[:2]
        top, bottom, left, right = unpadded_region(plan, (rows, cols))
        if self.positions is not None:
            x0, y0, x1, y1 = plan.content
            across = _centres(cols, image.device) * plan.canvas[0]
            down = _centres(rows, image.device) * plan.canvas[1]
            image = self.positions(image, (across - x0) / (x1 - x0), (down - y0) / (y1 - y0))
        image = image[top:bottom, left:right]
        covered = self.covered(plan, (rows, cols))
        if covered is not None:
            return self._covered_rows(image, covered.to(image.device))
        size = self._resized_grid((image.shape[0], image.shape[1]))
        if size != tuple(image.shape[:2]):
            maps = rearrange(image, "y x e -> 1 e y x").contiguous()
            image = rearrange(interpolate(maps, size, mode="bilinear"), "1 e y x -> y x e")
        if self.newline is None:
            return rearrange(image, "y x e -> (y x) e")
        if self._ends_in_newline(plan):
            tokens = rearrange(image, "y x e -> (y x) e")
            return torch.cat((tokens, self.newline.to(image)[None]))
        newline = self.newline.to(image).expand(len(image), 1, -1)
        return rearrange(torch.cat((image, newline), dim=1), "y x e -> (y x) e")

    def _covered_rows(
        self, image: Float[Tensor, "y x e"], covered: Bool[Tensor, "y x"]
    ) -> Float[Tensor, "m e"]:
        """Return the covered tokens row by row; rows without any have no newline either."""
        if self.newline is None:
            return image[covered]
        image = torch.cat((image, self.newline.to(image).expand(len(image), 1, -1)), dim=1)
        return image[torch.cat((covered, covered.any(1, keepdim=True)), dim=1)]

    def _thumbnail(self, thumbnail: FeatureMap) -> Float[Tensor, "m e"]:
        tokens, (rows, cols) = thumbnail.values, thumbnail.grid
        if self.positions is not None:
            xs, ys = _centres(cols, tokens.device), _centres(rows, tokens.device)
            image = rearrange(tokens, "1 (y x) e -> y x e", y=rows, x=cols)
            tokens = self.positions(image, xs, ys, thumbnail=True)
        return rearrange(tokens, "a b e -> (a b) e")
