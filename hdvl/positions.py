"""Interpolation of position embeddings to another grid."""

from collections.abc import Callable

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


class KeptTables:
    """Position embeddings resized to several grids, kept between the calls of a model that does not train.

    They are computed again when a value of the table has changed. Where gradients are needed, and on other
    devices than a CPU, where comparing values would cost more, every call computes them.
    """

    most = 8
    """The most grids that are kept."""

    def __init__(self) -> None:
        self._state: tuple[Tensor | None, dict[Grid, Tensor]] = None, {}

    def __call__(
        self, table: Float[Tensor, "n d"], grid: Grid, resize: Callable[[], Float[Tensor, "_m d"]]
    ) -> Float[Tensor, "_m d"]:
        """Return what ``resize`` makes of ``table`` for ``grid``."""
        trains = torch.is_grad_enabled() and table.requires_grad
        if trains or table.device.type != "cpu" or torch.compiler.is_compiling():
            return resize()
        with torch.inference_mode(False), torch.no_grad():
            source, kept = self._state
            if source is None or source.dtype != table.dtype or not torch.equal(source, table):
                source, kept = self._state = table.detach().clone(), {}
            found = kept.get(grid)
            if found is None:
                found = kept[grid] = resize()
                if len(kept) > self.most:
                    kept.pop(next(iter(kept)), None)
            return found
