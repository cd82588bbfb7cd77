"""Learned queries look at the patches: a fixed number of tokens whatever the grid."""

from math import isqrt

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdvl.protocols import Grid


def sincos_table(side: int, width: int) -> Float[Tensor, "n e"]:
    """2-D sine-cosine positions of a ``side`` x ``side`` grid: sin x, cos x, sin y, cos y."""
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), dim=1).float()
    return torch.cat((waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)), dim=1)


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
        keys = values + self._positions((rows, cols)).to(values.dtype)
        queries = self.ln_q(self.query) + self.pos_embed
        queries = repeat(queries, "m e -> t m e", t=len(features)).to(values.dtype)
        tokens, _ = self.attn(queries, keys, values, need_weights=False)
        for block in self.blocks:
            tokens = block(tokens, self.pos_embed, keys, values)
        output: Tensor = self.proj(self.ln_post(tokens))
        return output

    def _positions(self, grid: Grid) -> Float[Tensor, "n e"]:
        if grid == self.out_grid:
            return self.pos_embed
        table = rearrange(self.pos_embed.float(), "(y x) e -> 1 e y x", y=self.out_grid[0])
        resized = interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return rearrange(resized, "1 e y x -> (y x) e")
