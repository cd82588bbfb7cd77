"""Cross-attention of learned queries to patches, which gives a fixed number of tokens (Qwen-VL)."""

import warnings
from math import isqrt

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.positions import KeptTables, resized
from hdvl.protocols import Grid

ROUNDING = 2**-8
"""Bound of the rounding error of bfloat16 numbers between -1 and 1."""
DRIFT = 0.1
"""Largest accepted difference from the formula; training at published learning rates stays below it."""


def sincos_table(side: int, width: int) -> Float[Tensor, "n e"]:
    """Return 2-D sine-cosine positions of a ``side`` x ``side`` grid, (n, e) with n = side * side.

    The channels are sin x, cos x, sin y, cos y, a quarter of ``width`` each.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), dim=1).float()
    return torch.cat((waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)), dim=1)


def check_table(stored: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
    """Check that ``stored`` equals :func:`sincos_table` up to the rounding of half precision, and return it.

    The published fine-tuning code of Qwen-VL trains the positions by accident, which changes them a
    little. Such positions are accepted with a warning. On ``meta`` only the shape is checked.

    Raises:
        ValueError: the positions differ too much, as in a damaged file or with another order of axes.
    """
    side = isqrt(stored.shape[0])
    if side**2 != stored.shape[0] or stored.shape[1] % 4:
        raise ValueError(f"pos_embed must be of a square of positions, got {tuple(stored.shape)}")
    if stored.is_meta:
        return stored
    expected = sincos_table(side, stored.shape[1])
    furthest = float((stored.float() - expected).abs().max())
    if not furthest <= DRIFT:
        raise ValueError(
            "pos_embed must be the sines and cosines of the positions, x before y, got a table up to "
            f"{furthest:.3g} away from them; the file is damaged or of another model"
        )
    if furthest > ROUNDING:
        warnings.warn(f"pos_embed was trained: up to {furthest:.3g} off its formula", stacklevel=2)
    return stored


class Block(nn.Module):
    """Cross-attention followed by a perceptron, both with a residual connection."""

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
        attended, _ = self.attn(self.ln_q(tokens) + positions, keys, values, need_weights=False)
        tokens = tokens + attended
        output: Tensor = tokens + self.mlp(tokens)
        return output


class Resampler(nn.Module):
    """Resampler in which learned queries attend to all patches (Qwen-VL, arXiv 2308.12966).

    Fixed 2-D sine-cosine positions are added to queries and keys, but not to values; for the keys they
    are resized (bicubic) to the grid of the patches. The tokens form a square in raster order. The first
    layer is that of Qwen-VL, without residual connection or perceptron, and its state-dict keys are those
    of Qwen-VL's ``attn_pool``.

    Args:
        in_width: width of the encoder's features.
        out_width: width of the LLM's embeddings, a multiple of 4 and of ``heads``.
        grid: (rows, cols) of the encoder's features of a tile.
        num_queries: number of queries, a square number.
        heads: number of attention heads; one per 128 channels if ``None``.
        layers: number of attention layers; each one after the first has a perceptron and residual
            connections.
        project: whether to end with ``ln_post`` and ``proj`` of Qwen-VL.

    Raises:
        ValueError: an argument is out of range, or the features do not fill the grid.
    """

    has_places = False
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
        # Kept in the state dict, because published weights hold it rounded to half precision.
        self.register_buffer("pos_embed", sincos_table(side, out_width))
        self.kept = KeptTables()
        self.kv_proj = nn.Linear(in_width, out_width, bias=False)
        self.ln_q = nn.LayerNorm(out_width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(out_width, eps=1e-6)
        self.attn = nn.MultiheadAttention(out_width, heads, batch_first=True)
        self.blocks = nn.ModuleList(Block(width=out_width, heads=heads) for _ in range(layers - 1))
        self.ln_post = nn.LayerNorm(out_width, eps=1e-6) if project else nn.Identity()
        self.proj = nn.Linear(out_width, out_width, bias=False) if project else nn.Identity()

    def grid_for(self, grid: Grid) -> Grid:
        """Return the square grid of the queries, which does not depend on ``grid``."""
        return self.out_grid

    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]:
        rows, cols = grid = self.grid if grid is None else grid
        if features.shape[1] != rows * cols:
            raise ValueError(
                f"features must fill the grid of {rows}x{cols} patches, got {features.shape[1]}"
            )
        values: Tensor = self.ln_kv(self.kv_proj(features))
        places = self.kept(
            self.pos_embed, grid, lambda: resized(self.pos_embed, self.out_grid, (rows, cols))
        )
        keys = values + places.to(values.dtype)
        queries = self.ln_q(self.query) + self.pos_embed
        queries = repeat(queries, "m e -> t m e", t=len(features)).to(values.dtype)
        tokens, _ = self.attn(queries, keys, values, need_weights=False)
        for block in self.blocks:
            tokens = block(tokens, self.pos_embed, keys, values)
        output: Tensor = self.proj(self.ln_post(tokens))
        return output
