"""Space-to-depth, then a perceptron: fewer, wider tokens."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.bridges.perceptron import Activation, divided, layer_norm, perceptron
from hdvl.protocols import Grid


class PixelShuffleMLP(nn.Module):
    """Each ``factor`` x ``factor`` block of patches becomes one token (InternVL, arXiv 2404.16821).

    ``factor`` may be a pair (rows, cols): lines of text are read by blocks wider than high.

    A token is the block's feature vectors one after another, row by row (for factor 2: top left,
    top right, bottom left, bottom right), through LayerNorm, Linear, GELU, Linear. ``mlp`` holds
    these in order, so its keys are those of InternVL's ``mlp1``: 0 LayerNorm, 1 and 3 Linear.
    Without ``norm`` the other keys keep their numbers. ``depth=1, bias=False, norm=False`` is the
    connector of Idefics3 and SmolVLM, ``activation="silu", gated=True`` that of Aya Vision.

    ``channel_order`` is the order of the numbers inside a token: ``patch_major``, all numbers of a
    patch together, is that of InternVL, Idefics3, Aya Vision and LFM2-VL; ``channel_major``, the first
    number of all patches of the block, then the second, is that of ``nn.PixelUnshuffle`` and Mistral 3.

    ``order`` is the order of the tokens: ``v2`` in raster order; ``v1`` column by column, the
    transposed image, as in InternVL 1.2, whose weights were trained so. ``v1`` takes square grids
    only and belongs with ``merger=concat``: a merger that lays tokens out as an image would
    transpose each tile, and is refused.

    Raises:
        ValueError: a grid that ``factor`` does not divide, or that is not square in order ``v1``.
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
        """Whether tokens are in raster order, as a merger that lays them out as an image needs them."""
        return self.order == "v2"

    def grid_for(self, grid: Grid) -> Grid:
        """The grid of tokens that a grid of patches becomes."""
        out_grid = divided(grid, self.factor)
        if self.order == "v1" and grid[0] != grid[1]:
            raise ValueError(
                f"order v1 is for square grids only, got {grid[0]}x{grid[1]} (rows x cols); use v2"
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
