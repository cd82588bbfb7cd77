"""Where in the source image a token looks, told to the LLM."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# In units of the image's side. The binary ones place a token coarse to fine; 1/10 and 1/100 turn
# once a digit of a coordinate written as 0..1000.
PERIODS = (2.0, 1.0, 1 / 2, 1 / 4, 1 / 10, 1 / 20, 1 / 40, 1 / 50, 1 / 100)


def waves(coordinate: Float[Tensor, " k"]) -> Float[Tensor, "k f"]:
    """Sine and cosine of a coordinate (0..1 over the image) at each of ``PERIODS``."""
    periods = torch.tensor(PERIODS, dtype=torch.float64, device=coordinate.device)
    angles = 2 * math.pi * coordinate.double()[:, None] / periods
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


class SourcePositions(nn.Module):
    """Adds a learned projection of fixed 2-D sine and cosine features of token centres.

    Coordinates are those of the source image, x/width and y/height in 0..1, so a token says where
    it looks whatever the tiling was. The thumbnail's tokens are told apart by one more embedding.
    """

    x: nn.Linear
    y: nn.Linear
    thumbnail_embedding: nn.Parameter

    def __init__(self, *, width: int) -> None:
        super().__init__()
        # The projection of the joint x and y features, in two halves: a grid of tokens then costs
        # rows + cols products and not rows * cols.
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
        """``tokens`` of a grid whose columns are centred at ``xs`` and whose rows at ``ys``."""
        dtype = self.x.weight.dtype
        across: Tensor = self.x(waves(xs).to(dtype))
        down: Tensor = self.y(waves(ys).to(dtype))
        if thumbnail:
            down = down + self.thumbnail_embedding
        return tokens + (across[None] + down[:, None]).to(tokens.dtype)
