"""Multi-layer perceptron applied to each patch."""

from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import Activation, layer_norm, perceptron
from hdvl.protocols import Grid


class MLP(nn.Module):
    """Multi-layer perceptron that maps each patch to one token (LLaVA-1.5, arXiv 2310.03744).

    The state-dict keys of the default are ``mlp.0`` and ``mlp.2``, because activations are counted too.

    Args:
        in_width: width of the encoder's features.
        out_width: width of the LLM's embeddings.
        grid: (rows, cols) of the encoder's features of a tile.
        depth: number of linear layers; 1 is a linear projection.
        hidden: width between the layers; ``out_width`` if ``None``.
        bias: whether the linear layers have a bias.
        norm: whether a LayerNorm comes first, as in XVERSE-V.
        norm_eps: epsilon of the LayerNorm.
        activation: the activation between the layers.
        gated: whether the activation is gated; with ``activation="silu"`` this is SwiGLU.

    Raises:
        ValueError: the depth is below 1, a width is not positive, or the activation is unknown.
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
        """Return the grid of tokens for a grid of patches, which is the same."""
        return grid

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        output: Tensor = self.mlp(self.norm(features))
        return output
