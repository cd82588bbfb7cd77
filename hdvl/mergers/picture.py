"""What the mergers that lay tokens out as one picture have in common."""

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


def _kept(start: int, stop: int, size: int, exact: Fraction, tokens: int) -> slice:
    # LLaVA-NeXT's rule, in exact arithmetic: padding is rounded to whole tokens, half a token down.
    before, after = Fraction(start), Fraction(size - stop)
    if abs(before - after) <= 1:  # centred, up to the odd pixel
        before = after = (size - exact) / 2
    lead, trail = (max(0, ceil(p * tokens / size - Fraction(1, 2))) for p in (before, after))
    return slice(lead, tokens - trail)


def kept(plan: TilePlan, grid: Grid) -> tuple[slice, slice]:
    """Rows and columns of the canvas' token ``grid`` that show the picture, not padding.

    Equal to LLaVA-NeXT's ``unpad_image`` for a picture scaled to fit and centred.
    """
    (width, height), (x0, y0, x1, y1) = plan.canvas, plan.content
    # Tilers round the content up to whole pixels; tokens are counted from the size before that.
    exact_x = Fraction(plan.width * (y1 - y0), plan.height)
    exact_y = Fraction(plan.height * (x1 - x0), plan.width)
    exact_x = exact_x if abs(exact_x - (x1 - x0)) < 1 else Fraction(x1 - x0)
    exact_y = exact_y if abs(exact_y - (y1 - y0)) < 1 else Fraction(y1 - y0)
    rows = slice(0, grid[0]) if y1 - y0 == height else _kept(y0, y1, height, exact_y, grid[0])
    cols = slice(0, grid[1]) if x1 - x0 == width else _kept(x0, x1, width, exact_x, grid[1])
    return rows, cols


class PictureMerger(nn.Module):
    """Prints one grid of tokens row by row, and the thumbnail before or after it.

    Padding of the canvas is cut off, each row ends in a learned newline embedding if ``newline``,
    and ``positions="sincos2d"`` adds to each token where in the source picture it looks. Subclasses
    say what the grid of the picture is (``picture_grid``) and make it (``stitch``, ``arrange``).
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

    def picture_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""
        raise NotImplementedError

    def token_count(self, plan: TilePlan) -> int:
        """Tokens that a picture cut by ``plan`` takes."""
        grid = self.picture_grid(plan)
        rows, cols = (part.stop - part.start for part in kept(plan, grid))
        thumbnail = self.out_grid(self.grid) if plan.thumbnail else (0, 0)
        return rows * (cols + (self.newline is not None)) + thumbnail[0] * thumbnail[1]

    def print_picture(
        self, picture: Float[Tensor, "y x e"], plan: TilePlan
    ) -> Float[Tensor, "m e"]:
        """The canvas' tokens, row by row, without padding."""
        grid = picture.shape[0], picture.shape[1]
        if self.positions is not None:
            across = self._centres(grid[1], picture.device) * plan.canvas[0]
            down = self._centres(grid[0], picture.device) * plan.canvas[1]
            x0, y0, x1, y1 = plan.content
            picture = self.positions(picture, (across - x0) / (x1 - x0), (down - y0) / (y1 - y0))
        picture = picture[kept(plan, grid)]
        if self.newline is not None:
            newline = self.newline.to(picture).expand(len(picture), 1, -1)
            picture = torch.cat((picture, newline), dim=1)
        return rearrange(picture, "y x e -> (y x) e")

    def print_thumbnail(self, tokens: Float[Tensor, "m e"], grid: Grid) -> Float[Tensor, "m e"]:
        """The thumbnail's tokens: no newlines."""
        if self.positions is None:
            return tokens
        picture = rearrange(tokens, "(y x) e -> y x e", y=grid[0], x=grid[1])
        xs, ys = (self._centres(count, tokens.device) for count in (grid[1], grid[0]))
        picture = self.positions(picture, xs, ys)
        picture = picture + self.positions.thumbnail_embedding.to(tokens)
        return rearrange(picture, "y x e -> (y x) e")

    @staticmethod
    def _centres(count: int, device: torch.device) -> Float[Tensor, " k"]:
        return (torch.arange(count, device=device) + 0.5) / count

    @staticmethod
    def in_order(
        plan: TilePlan, picture: FeatureMap, thumbnail: FeatureMap | None
    ) -> list[FeatureMap]:
        """Picture and thumbnail in the order of the plan."""
        if thumbnail is None:
            return [picture]
        return [thumbnail, picture] if plan.thumbnail == "first" else [picture, thumbnail]
