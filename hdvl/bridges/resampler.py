"""Learned queries look at the patches: a fixed number of tokens whatever the grid."""

import warnings
from math import isqrt

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.positions import resized
from hdvl.protocols import Grid

ROUNDING = 2**-8
"""A bfloat16 between -1 and 1 is nearer to what it was rounded from."""
DRIFT = 0.1
"""More than training at published rates moves a number; another table is further away."""


def sincos_table(side: int, width: int) -> Float[Tensor, "n e"]:
    """2-D sine-cosine positions of a ``side`` x ``side`` grid: sin x, cos x, sin y, cos y."""
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), dim=1).float()
    return torch.cat((waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)), dim=1)


def check_table(stored: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
    """``stored``, if it is :func:`sincos_table` up to the rounding of half precision.

    Training it by accident, as Qwen-VL's published fine-tuning does, moves it a little: that is said
    in a warning, and the table is kept as it is. On ``meta`` only the shape is looked at.

    Raises:
        ValueError: it is another table, as of a damaged file or of other axes.
    """
    side = isqrt(stored.shape[0])
    if side**2 != stored.shape[0] or stored.shape[1] % 4:
        raise ValueError(f"pos_embed must be of a square of positions, got {tuple(stored.shape)}")
    if stored.is_meta:
        return stored
    wanted = sincos_table(side, stored.shape[1])
    furthest = float((stored.float() - wanted).abs().max())
    if not furthest <= DRIFT:
        raise ValueError(
            "pos_embed must be the sines and cosines of the positions, x before y, got a table up to "
            f"{furthest:.3g} away from them; the file is damaged or of another model"
        )
    if furthest > ROUNDING:
        warnings.warn(f"pos_embed was trained: up to {furthest:.3g} off its formula", stacklevel=2)
    return stored


class Block(nn.Module):
    """A further look at the patches, then a perceptron, both with residuals."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(
        self,
        tokens: Float[Tensor, "t m e"],
        positions: Float[Tensor, "m e"],
        keys: Float[Tensor, "t n e"],
        values: Float[Tensor, "t n e"],
    ) -> Float[Tensor, "t m e"]:
        seen, _ = self.attn(self.ln_q(tokens) + positions, keys, values, need_weights=False)
        tokens = tokens + seen
        output: Tensor = tokens + self.mlp(tokens)
        return output


class Resampler(nn.Module):
    """``num_queries`` learned queries attend to all patches of a map (Qwen-VL, arXiv 2308.12966).

    Fixed 2-D sine-cosine positions are added to queries and keys, not to values, and resized to the
    grid of the keys (bicubic). The tokens are the square of the queries, in raster order. The first
    layer is Qwen-VL's, without residual or perceptron, and keys follow its ``attn_pool``; each of
    ``layers`` beyond it adds attention and a perceptron with residuals. ``project`` ends with
    Qwen-VL's ``ln_post`` and ``proj``. ``heads`` is one per 128 channels if not given.

    Raises:
        ValueError: ``num_queries`` that is no square, ``out_width`` that is no multiple of 4 and of
            ``heads``, ``layers`` below 1, features that do not fill the grid.
    """

    out_grid: Grid
    query: nn.Parameter
    pos_embed: Tensor

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        grid: Grid,
        num_queries: int = 64,
        heads: int | None = None,
        layers: int = 1,
        project: bool = True,
    ) -> None:
        super().__init__()
        side = isqrt(max(num_queries, 0))
        if num_queries < 1 or side**2 != num_queries:
            raise ValueError(
                f"num_queries must be a square, got {num_queries}; use {max(side, 1) ** 2} or "
                f"{(side + 1) ** 2}"
            )
        heads = max(1, out_width // 128) if heads is None else heads
        if heads < 1 or out_width % heads or out_width % 4:
            raise ValueError(
                f"the LLM's width must be a multiple of 4 and of heads={heads}, got {out_width}"
            )
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.grid, self.out_grid = (grid[0], grid[1]), (side, side)
        self.query = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(num_queries, out_width), std=0.02)
        )
        # In the state, not recomputed: published weights hold it in half precision.
        self.register_buffer("pos_embed", sincos_table(side, out_width))
        self.kv_proj = nn.Linear(in_width, out_width, bias=False)
        self.ln_q = nn.LayerNorm(out_width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(out_width, eps=1e-6)
        self.attn = nn.MultiheadAttention(out_width, heads, batch_first=True)
        self.blocks = nn.ModuleList(Block(width=out_width, heads=heads) for _ in range(layers - 1))
        self.ln_post = nn.LayerNorm(out_width, eps=1e-6) if project else nn.Identity()
        self.proj = nn.Linear(out_width, out_width, bias=False) if project else nn.Identity()

    def grid_for(self, grid: Grid) -> Grid:
        """The square of queries, whatever the grid of patches."""
        return self.out_grid

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        rows, cols = self.grid if grid is None else grid
        if features.shape[1] != rows * cols:
            raise ValueError(
                f"features must fill the grid of {rows}x{cols} patches, got {features.shape[1]}"
            )
        values: Tensor = self.ln_kv(self.kv_proj(features))
        keys = values + resized(self.pos_embed, self.out_grid, (rows, cols)).to(values.dtype)
        queries = self.ln_q(self.query) + self.pos_embed
        queries = repeat(queries, "m e -> t m e", t=len(features)).to(values.dtype)
        tokens, _ = self.attn(queries, keys, values, need_weights=False)
        for block in self.blocks:
            tokens = block(tokens, self.pos_embed, keys, values)
        output: Tensor = self.proj(self.ln_post(tokens))
        return output
