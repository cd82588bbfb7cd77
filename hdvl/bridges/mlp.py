"""A perceptron on each patch by itself."""

from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import Activation, layer_norm, perceptron
from hdvl.protocols import Grid


class MLP(nn.Module):
    """One token a patch: ``depth`` linear layers, GELU between them (LLaVA-1.5, arXiv 2310.03744).

    ``depth=1`` is one linear layer. ``norm`` puts a LayerNorm in front, as XVERSE-V does, ``bias``
    is of all linear layers, ``gated`` with ``activation="silu"`` is SwiGLU. ``mlp`` counts
    activations too, so the keys of the default are ``mlp.0`` and ``mlp.2``. ``hidden`` is the inner
    width, the LLM's width if not given.

    Raises:
        ValueError: a depth below 1, a width that is not positive, an unknown norm or activation.
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
        bias: bool = True,
        norm: bool = False,
        norm_eps: float = 1e-5,
        activation: Activation = nn.GELU,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.norm = layer_norm(norm, in_width, norm_eps)
        self.mlp = nn.Sequential(
            *perceptron(
                in_width=in_width,
                hidden=hidden,
                out_width=out_width,
                depth=depth,
                bias=bias,
                activation=activation,
                gated=gated,
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
