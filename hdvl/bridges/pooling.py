"""Average pooling of patches, optionally between convolution blocks (C-Abstractor)."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import Activation, divided, layer_norm, perceptron
from hdvl.protocols import Grid


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map."""

    def forward(self, map: Float[Tensor, "t c y x"]) -> Float[Tensor, "t c y x"]:
        return rearrange(
            super().forward(rearrange(map, "t c y x -> t y x c")), "t y x c -> t c y x"
        )


class ConvBlock(nn.Module):
    """A bottleneck of 1x1, depth-wise 3x3 and 1x1 convolutions with squeeze-excitation."""

    def __init__(self, *, in_width: int, out_width: int) -> None:
        super().__init__()
        squeezed = max(1, round(in_width / 4))
        self.spread = nn.Sequential(
            nn.Conv2d(in_width, out_width, 1, bias=False),
            ChannelNorm(out_width),
            nn.SiLU(),
            nn.Conv2d(out_width, out_width, 3, padding=1, groups=out_width, bias=False),
            ChannelNorm(out_width),
            nn.SiLU(),
        )
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(out_width, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, out_width, 1),
            nn.Sigmoid(),
        )
        self.gather = nn.Sequential(
            nn.Conv2d(out_width, out_width, 1, bias=False), ChannelNorm(out_width)
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_width != out_width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, bias=False), ChannelNorm(out_width)
            )
        self.activation = nn.SiLU()

    def forward(self, map: Float[Tensor, "t c y x"]) -> Float[Tensor, "t f y x"]:
        spread = self.spread(map)
        output: Tensor = self.activation(
            self.gather(spread * self.excite(spread)) + self.shortcut(map)
        )
        return output


class Pooling(nn.Module):
    """Averages each ``factor`` x ``factor`` block of patches to one token, followed by a perceptron.

    ``kind="conv"`` is the C-Abstractor of Honeybee (arXiv 2312.06742), with convolution blocks before and
    after the average. Unlike the published one it has no learned positions, so that it supports grids of
    any size. Its squeeze-excitation averages over the whole feature map.

    Args:
        in_width: width of the encoder's features.
        out_width: width of the LLM's embeddings.
        grid: (rows, cols) of the encoder's features of a tile.
        kind: ``average`` for the average only, ``conv`` for convolution blocks around it.
        factor: side of a block in patches.
        depth: number of linear layers of the perceptron.
        hidden: width between the linear layers; ``out_width`` if ``None``.
        blocks: number of convolution blocks before the average, and after it.
        conv_width: number of channels of the convolution blocks.
        bias: whether the linear layers have a bias.
        norm: whether a LayerNorm precedes the perceptron.
        norm_eps: epsilon of the LayerNorm.
        activation: the activation between the linear layers.
        gated: whether the activation is gated.

    Raises:
        ValueError: ``grid`` is not divisible by ``factor``, or an argument is unknown or out of range.
    """

    pool: nn.Sequential
    norm: nn.Module
    mlp: nn.Sequential
    out_grid: Grid

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        grid: Grid,
        kind: Literal["average", "conv"] = "average",
        factor: int = 2,
        depth: int = 2,
        hidden: int | None = None,
        blocks: int = 3,
        conv_width: int = 1024,
        bias: bool = True,
        norm: bool = False,
        norm_eps: float = 1e-5,
        activation: Activation = nn.GELU,
        gated: bool = False,
    ) -> None:
        super().__init__()
        if kind not in ("average", "conv"):
            raise ValueError(f"kind must be average or conv, got {kind!r}")
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        if blocks < 1 or conv_width < 1:
            raise ValueError(
                f"blocks and conv_width must be at least 1, got {blocks} and {conv_width}"
            )
        self.grid, self.factor = (grid[0], grid[1]), factor
        self.out_grid = self.grid_for(self.grid)
        average = nn.AvgPool2d(factor)
        before: list[nn.Module] = []
        after: list[nn.Module] = []
        if kind == "conv":
            widths = [in_width, *[conv_width] * (blocks - 1)]
            before = [ConvBlock(in_width=width, out_width=conv_width) for width in widths]
            after = [ConvBlock(in_width=conv_width, out_width=conv_width) for _ in range(blocks)]
        self.pool = nn.Sequential(*before, average, *after)
        pooled = conv_width if kind == "conv" else in_width
        self.norm = layer_norm(norm, pooled, norm_eps)
        self.mlp = nn.Sequential(
            *perceptron(
                in_width=pooled,
                hidden=hidden,
                out_width=out_width,
                depth=depth,
                bias=bias,
                activation=activation,
                gated=gated,
            )
        )

    def grid_for(self, grid: Grid) -> Grid:
        """Return the grid of tokens for a grid of patches."""
        return divided(grid, self.factor)

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        rows, cols = self.grid if grid is None else grid
        self.grid_for((rows, cols))  # raises where the average would drop an incomplete last row
        pooled = self.pool(rearrange(features, "t (y x) d -> t d y x", y=rows, x=cols))
        output: Tensor = self.mlp(self.norm(rearrange(pooled, "t d y x -> t (y x) d")))
        return output
