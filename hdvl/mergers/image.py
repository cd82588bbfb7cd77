"""What the mergers that lay tokens out as one image have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.mergers.positions import SourcePositions
from hdvl.protocols import FeatureMap, Grid, TilePlan


def check_tiles(features: Tensor, plan: TilePlan) -> None:
    """Refuse features of another number of tiles than the plan has."""
    if len(features) != plan.count:
        raise ValueError(f"features must hold the plan's {plan.count} tiles, got {len(features)}")


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
    and ``positions="sincos2d"`` adds to each token where in the source image it looks.
    """

    grid: Grid
    out_grid: Callable[[Grid], Grid]
    newline: nn.Parameter | None
    positions: SourcePositions | None

    def __init__(
        self,
        *,
        grid: Grid,
        out_grid: Callable[[Grid], Grid],
        width: int,
        newline: bool = True,
        positions: Literal["none", "sincos2d"] = "none",
    ) -> None:
        super().__init__()
        if positions not in ("none", "sincos2d"):
            raise ValueError(f"positions must be none or sincos2d, got {positions!r}")
        self.grid, self.out_grid = (grid[0], grid[1]), out_grid
        self.newline = nn.Parameter(torch.randn(width) * width**-0.5) if newline else None
        self.positions = SourcePositions(width=width) if positions == "sincos2d" else None

    @abstractmethod
    def image_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""

    def token_count(self, plan: TilePlan) -> int:
        """Tokens that an image cut by ``plan`` takes."""
        top, bottom, left, right = kept(plan, self.image_grid(plan))
        rows, cols = self.out_grid(self.grid) if plan.thumbnail else (0, 0)
        return (bottom - top) * (right - left + (self.newline is not None)) + rows * cols

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
        if self.newline is not None:
            newline = self.newline.to(image).expand(len(image), 1, -1)
            image = torch.cat((image, newline), dim=1)
        return rearrange(image, "y x e -> (y x) e")

    def _thumbnail(self, thumbnail: FeatureMap) -> Float[Tensor, "m e"]:
        tokens, (rows, cols) = thumbnail.values, thumbnail.grid
        if self.positions is not None:
            xs, ys = _centres(cols, tokens.device), _centres(rows, tokens.device)
            image = rearrange(tokens, "1 (y x) e -> y x e", y=rows, x=cols)
            tokens = self.positions(image, xs, ys, thumbnail=True)
        return rearrange(tokens, "a b e -> (a b) e")
