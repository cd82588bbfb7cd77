"""Space-to-depth (pixel unshuffle) followed by a multi-layer perceptron."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import Activation, divided, layer_norm, perceptron
from hdvl.protocols import Grid


class PixelShuffleMLP(nn.Module):
    """Maps each ``factor`` x ``factor`` block of patches to one token (InternVL, arXiv 2404.16821).

    The feature vectors of a block are concatenated row by row (for factor 2: top left, top right, bottom
    left, bottom right), followed by LayerNorm, Linear, GELU, Linear. The state-dict keys are those of
    InternVL's ``mlp1``: 0 for the LayerNorm, 1 and 3 for the linear layers, also without ``norm``.
    ``depth=1, bias=False, norm=False`` is the connector of Idefics3 and SmolVLM,
    ``activation="silu", gated=True`` that of Aya Vision.

    Args:
        in_width: width of the encoder's features.
        out_width: width of the LLM's embeddings.
        grid: (rows, cols) of the encoder's features of a tile.
        factor: side of a block in patches, or a pair (rows, cols).
        order: order of the tokens. ``v2`` is raster order. ``v1`` is column by column, as in InternVL 1.2;
            it supports only square grids, and mergers that do not depend on the order, such as
            ``merger=concat``.
        depth: number of linear layers.
        hidden: width between the layers; ``out_width`` if ``None``.
        channel_order: order of the channels within a concatenated vector. ``patch_major``: all channels
            of one patch are adjacent (InternVL, Idefics3, Aya Vision, LFM2-VL). ``channel_major``: the
            same channel of all patches is adjacent (``nn.PixelUnshuffle``, Mistral 3).
        bias: whether the linear layers have a bias.
        norm: whether a LayerNorm comes first.
        norm_eps: epsilon of the LayerNorm.
        activation: the activation between the layers.
        gated: whether the activation is gated.

    Raises:
        ValueError: ``grid`` is not divisible by ``factor``, is not square with order ``v1``, or an
            argument is out of range.
    """

    mlp: nn.Sequential
    out_grid: Grid

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        grid: Grid,
        factor: int | tuple[int, int] | list[int] = 2,
        order: Literal["v1", "v2"] = "v2",
        depth: int = 2,
        hidden: int | None = None,
        channel_order: Literal["patch_major", "channel_major"] = "patch_major",
        bias: bool = True,
        norm: bool = True,
        norm_eps: float = 1e-5,
        activation: Activation = nn.GELU,
        gated: bool = False,
    ) -> None:
        super().__init__()
        down, across = (factor, factor) if isinstance(factor, int) else factor
        if down < 1 or across < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        if order not in ("v1", "v2"):
            raise ValueError(f"order must be v1 or v2, got {order!r}")
        if channel_order not in ("patch_major", "channel_major"):
            raise ValueError(
                f"channel_order must be patch_major or channel_major, got {channel_order!r}"
            )
        self.grid, self.factor, self.order = (grid[0], grid[1]), (down, across), order
        self.channel_order = channel_order
        width = in_width * down * across
        layers = perceptron(
            in_width=width,
            hidden=hidden,
            out_width=out_width,
            depth=depth,
            bias=bias,
            activation=activation,
            gated=gated,
        )
        self.mlp = nn.Sequential(layer_norm(norm, width, norm_eps), *layers)
        self.out_grid = self.grid_for(self.grid)

    @property
    def raster_order(self) -> bool:
        """Whether the tokens are in raster order."""
        return self.order == "v2"

    def grid_for(self, grid: Grid) -> Grid:
        """Return the grid of tokens for a grid of patches."""
        out_grid = divided(grid, self.factor)
        if self.order == "v1" and grid[0] != grid[1]:
            raise ValueError(
                f"order v1 is for square grids only, got {grid[0]}x{grid[1]} (rows x cols); "
                "set bridge.order=v2"
            )
        return out_grid

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        rows, cols = self.grid_for(self.grid if grid is None else grid)
        tokens = "(cols rows)" if self.order == "v1" else "(rows cols)"
        channels = "(y x d)" if self.channel_order == "patch_major" else "(d y x)"
        blocks = rearrange(
            features,
            f"t (rows y cols x) d -> t {tokens} {channels}",
            rows=rows,
            cols=cols,
            y=self.factor[0],
            x=self.factor[1],
        )
        output: Tensor = self.mlp(blocks)
        return output
