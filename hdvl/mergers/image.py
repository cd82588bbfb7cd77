"""What the mergers that lay tokens out as one image have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, prod, sqrt
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdvl.mergers.positions import SourcePositions
from hdvl.mergers.tags import Tags, grid_pieces, image_layout
from hdvl.protocols import FeatureMap, Features, Grid, Layout, Size, TilePlan, token_count

PER_TILE = (
    "before_tile",
    "after_tile",
    "between_tiles",
    "row_end",
    "between_rows",
    "before_single",
    "after_single",
)
"""Tags that stand between windows: there is nothing between windows that became one image."""

_SHRINK_FROM = 1.1
"""How many times too long a side must be before the tokens are resized, as published."""


def check_tiles(features: Features, plan: TilePlan) -> None:
    """Refuse features of another number of views than the plan has."""
    if len(features) != plan.count:
        raise ValueError(f"features must hold the plan's {plan.count} tiles, got {len(features)}")


def window_features(features: Features, plan: TilePlan) -> Float[Tensor, "_w n d"]:
    """The features of the windows, without the thumbnail's."""
    windows = features[plan.window_slice]
    return torch.cat([piece.values for piece in windows]) if isinstance(windows, list) else windows


def kept(plan: TilePlan, grid: Grid) -> tuple[int, int, int, int]:
    """Which part of the canvas' token ``grid`` shows the image: (top, bottom, left, right).

    Equal to LLaVA-NeXT's ``unpad_image`` for an image scaled to fit the canvas and centred.
    """
    (width, height), (x0, y0, x1, y1) = plan.canvas, plan.content
    fitted_height = Fraction(plan.height * (x1 - x0), plan.width)
    fitted_width = Fraction(plan.width * (y1 - y0), plan.height)
    return (
        *_kept_along(y0, y1, height, fitted_height, grid[0]),
        *_kept_along(x0, x1, width, fitted_width, grid[1]),
    )


def _kept_along(start: int, stop: int, side: int, fitted: Fraction, tokens: int) -> tuple[int, int]:
    if stop - start == side:
        return 0, tokens
    before, after = Fraction(start), Fraction(side - stop)
    if abs(before - after) <= 1 and abs(fitted - (stop - start)) < 1:
        # Centred, up to the odd pixel: LLaVA-NeXT counts from the size before rounding to pixels.
        before = after = (side - fitted) / 2
    # Padding is rounded to whole tokens, half a token down.
    half = Fraction(1, 2)
    lead, trail = (max(0, ceil(padding * tokens / side - half)) for padding in (before, after))
    return lead, max(lead, tokens - trail)


def _centres(count: int, device: torch.device) -> Float[Tensor, " k"]:
    return (torch.arange(count, device=device) + 0.5) / count


class ImageMerger(nn.Module, ABC):
    """Prints one grid of tokens row by row, and the thumbnail before or after it.

    Padding of the canvas is cut off, each row ends in a learned newline embedding if ``newline``,
    and ``positions="sincos2d"`` adds to each token where in the source image it looks. ``tags`` are
    texts around the image, its windows as a whole and the thumbnail, and at the end of token rows.

    ``shrink_above`` is a number of tiles: where what the image leaves of the canvas has more than 1.21
    times the tokens of so many tiles, it is resized bilinearly to as many tokens as those, in
    proportion (``anyres_max_9`` of LLaVA-OneVision, arXiv 2408.03326). With
    ``single_newline="image"`` an image of one window without a thumbnail ends in one newline, in
    place of one after each row of tokens.
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
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""

    def layout(self, plan: TilePlan) -> Layout:
        """Text pieces and counts of visual tokens, in the order in which the LLM reads them."""
        top, bottom, left, right = kept(plan, self.image_grid(plan))
        rows, cols = self._shrunk((bottom - top, right - left))
        extra = int(self.newline is not None)
        if self._ends_in_newline(plan):
            windows = [*grid_pieces((rows, cols), self.tags), extra]
        else:
            windows = grid_pieces((rows, cols), self.tags, extra=extra)
        thumbnail = self.out_grid(self.thumbnail_grid(plan)) if plan.thumbnail else None
        return image_layout(plan, windows, thumbnail, self.tags)

    def token_count(self, plan: TilePlan) -> int:
        """Visual tokens that an image cut by ``plan`` takes."""
        return token_count(self.layout(plan))

    def _shrunk(self, grid: Grid) -> Grid:
        """The (rows, cols) of tokens that ``grid``, the image without padding, is resized to."""
        if self.shrink_above is None:
            return grid
        limit = self.shrink_above * prod(self.out_grid(self.grid))
        ratio = sqrt(prod(grid) / limit)
        if ratio <= _SHRINK_FROM:
            return grid
        return max(1, int(grid[0] // ratio)), max(1, int(grid[1] // ratio))

    def _ends_in_newline(self, plan: TilePlan) -> bool:
        """Whether a newline ends the whole image in place of each row."""
        return self.single_newline == "image" and plan.count == 1

    def check_grid(self, plan: TilePlan) -> None:
        """Refuse a plan whose windows are no whole grid of squares."""
        if not plan.is_grid or not plan.windows:
            raise ValueError(
                f"{type(self).__name__} needs windows that form a grid of equal squares, got "
                f"{len(plan.windows)} windows of a grid of {plan.rows}x{plan.cols}; use "
                "merger=concat, or a tiler that cuts whole grids"
            )

    def thumbnail_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of patches of the thumbnail."""
        size = plan.sizes[plan.thumbnail_index or 0]
        return self.grid if self.grid_for is None else self.grid_for(size)

    def thumbnail_map(self, features: Features, plan: TilePlan) -> FeatureMap:
        """The thumbnail's features as a map of its own."""
        found = features[plan.thumbnail_index or 0]
        if isinstance(found, FeatureMap):
            return found
        return FeatureMap(found[None], self.thumbnail_grid(plan))

    def sequence(
        self, image: Float[Tensor, "y x e"], thumbnail: FeatureMap | None, plan: TilePlan
    ) -> Float[Tensor, "m e"]:
        """The canvas' tokens row by row, without padding; the thumbnail's before or after them."""
        parts = [self._rows(image, plan)]
        if thumbnail is not None:
            parts.insert(plan.thumbnail != "first", self._thumbnail(thumbnail))
        return torch.cat(parts)

    def _rows(self, image: Float[Tensor, "y x e"], plan: TilePlan) -> Float[Tensor, "m e"]:
        rows, cols = image.shape[:2]
        top, bottom, left, right = kept(plan, (rows, cols))
        if self.positions is not None:
            x0, y0, x1, y1 = plan.content
            across = _centres(cols, image.device) * plan.canvas[0]
            down = _centres(rows, image.device) * plan.canvas[1]
            image = self.positions(image, (across - x0) / (x1 - x0), (down - y0) / (y1 - y0))
        image = image[top:bottom, left:right]
        size = self._shrunk((image.shape[0], image.shape[1]))
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

    def _thumbnail(self, thumbnail: FeatureMap) -> Float[Tensor, "m e"]:
        tokens, (rows, cols) = thumbnail.values, thumbnail.grid
        if self.positions is not None:
            xs, ys = _centres(cols, tokens.device), _centres(rows, tokens.device)
            image = rearrange(tokens, "1 (y x) e -> y x e", y=rows, x=cols)
            tokens = self.positions(image, xs, ys, thumbnail=True)
        return rearrange(tokens, "a b e -> (a b) e")
