"""Position embeddings that encode where a token lies in the source image."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Periods in units of the image's side. Powers of two locate a token from coarse to fine; 1/10 and 1/100
# have one period for each digit of a coordinate that is written as 0..1000.
PERIODS = (2.0, 1.0, 1 / 2, 1 / 4, 1 / 10, 1 / 20, 1 / 40, 1 / 50, 1 / 100)


def waves(coordinate: Float[Tensor, " k"]) -> Float[Tensor, "k f"]:
    """Return sine and cosine of coordinates (0..1 over the image) for each of ``PERIODS``, (k, f)."""
    periods = torch.tensor(PERIODS, dtype=torch.float64, device=coordinate.device)
    angles = 2 * math.pi * coordinate.double()[:, None] / periods
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


class SourcePositions(nn.Module):
    """Adds a learned projection of fixed 2-D sine and cosine features of token centres.

    Coordinates are those of the source image, x/width and y/height in 0..1, so they do not depend on how
    the image was cut. Another learned embedding is added to the tokens of the thumbnail.
    """

    x: nn.Linear
    y: nn.Linear
    thumbnail_embedding: nn.Parameter

    def __init__(self, *, width: int) -> None:
        super().__init__()
        # The projection of the joint x and y features is split in two, so that a grid of tokens costs
        # rows + cols products instead of rows * cols.
        self.x = nn.Linear(2 * len(PERIODS), width, bias=False)
        self.y = nn.Linear(2 * len(PERIODS), width, bias=False)
        self.thumbnail_embedding = nn.Parameter(torch.empty(width))
        for weight in (self.x.weight, self.y.weight, self.thumbnail_embedding):
            nn.init.normal_(weight, std=0.02)

    def forward(
        self,
        tokens: Float[Tensor, "y x e"],
        xs: Float[Tensor, " x"],
        ys: Float[Tensor, " y"],
        *,
        thumbnail: bool = False,
    ) -> Float[Tensor, "y x e"]:
        """Add position embeddings to a grid of tokens.

        Args:
            tokens: the tokens (y, x, e).
            xs: centre of each column, 0..1 over the width of the image.
            ys: centre of each row, 0..1 over the height of the image.
            thumbnail: whether the tokens are those of the thumbnail.
        """
        dtype = self.x.weight.dtype
        across: Tensor = self.x(waves(xs).to(dtype))
        down: Tensor = self.y(waves(ys).to(dtype))
        if thumbnail:
            down = down + self.thumbnail_embedding
        return tokens + (across[None] + down[:, None]).to(tokens.dtype)
