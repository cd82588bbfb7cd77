"""Interpolation of position embeddings to another grid."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hdvl.geometry import Grid


def resized(table: Float[Tensor, "n d"], own: Grid, grid: Grid) -> Float[Tensor, "_m d"]:
    """Interpolate ``table`` from the grid ``own`` to ``grid``, both (rows, cols) in raster order.

    The interpolation is bicubic without antialiasing and with ``align_corners=False``, in float32 or wider,
    as in the training of Qwen-VL and InternVL. The result has the dtype of ``table``; it is ``table`` itself
    if the grids are equal.
    """
    if tuple(own) == tuple(grid):
        return table
    wide = torch.promote_types(table.dtype, torch.float32)
    maps = rearrange(table.to(wide), "(y x) d -> 1 d y x", y=own[0])
    maps = functional.interpolate(maps, grid, mode="bicubic", align_corners=False)
    return rearrange(maps, "1 d y x -> (y x) d").to(table.dtype)
