"""Learned or fixed position tables, stretched to another grid."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hdvl.geometry import Grid


def resized(table: Float[Tensor, "n d"], own: Grid, grid: Grid) -> Float[Tensor, "_m d"]:
    """A ``table`` of ``own`` = (rows, cols) positions, raster order, for ``grid``; same dtype.

    Bicubic without antialiasing and with corners as areas, in float32 (or wider) whatever the
    table's type: what Qwen-VL and InternVL were trained with. Untouched where the grids are equal.
    """
    if tuple(own) == tuple(grid):
        return table
    wide = torch.promote_types(table.dtype, torch.float32)
    maps = rearrange(table.to(wide), "(y x) d -> 1 d y x", y=own[0])
    maps = functional.interpolate(maps, grid, mode="bicubic", align_corners=False)
    return rearrange(maps, "1 d y x -> (y x) d").to(table.dtype)
