"""A perceptron on each patch by itself."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import perceptron
from hdvl.protocols import Grid


class MLP(nn.Module):
    """One token a patch: ``depth`` linear layers, GELU between them (LLaVA-1.5, arXiv 2310.03744).

    ``depth=1`` is one linear layer. ``norm="layer_norm"`` puts a LayerNorm (eps 1e-5) in front, as
    XVERSE-V does. ``mlp`` counts activations too, so the keys of the default are ``mlp.0`` and
    ``mlp.2``. ``hidden`` is the inner width, the LLM's width if not given.

    Raises:
        ValueError: a depth below 1, a width that is not positive, an unknown norm.
    """

    norm: nn.Module
    mlp: nn.Sequential
    out_grid: Grid

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        grid: Grid,
        depth: int = 2,
        hidden: int | None = None,
        norm: Literal["none", "layer_norm"] = "none",
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        if norm not in ("none", "layer_norm"):
            raise ValueError(f"norm must be none or layer_norm, got {norm!r}")
        self.norm = nn.LayerNorm(in_width, eps=1e-5) if norm == "layer_norm" else nn.Identity()
        self.mlp = nn.Sequential(
            *perceptron(
                in_width=in_width,
                hidden=out_width if hidden is None else hidden,
                out_width=out_width,
                depth=depth,
                activation=activation,
            )
        )
        self.out_grid = self.grid_for((grid[0], grid[1]))

    def grid_for(self, grid: Grid) -> Grid:
        """The grid of tokens that a grid of patches becomes: the same."""
        return grid

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        output: Tensor = self.mlp(self.norm(features))
        return output
