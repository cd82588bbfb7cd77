"""From a picture to the tiles of its plan: the pixel work that all tilers share, once."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from hdvl.images import Colour, read_image, resize_bicubic
from hdvl.protocols import TilePlan, Tiles
from hdvl.tilers.decode import Buffers, Raster, decode

Plan = Callable[[int, int], TilePlan]


class _Pool(threading.local):
    """The buffers of one thread, kept from picture to picture.

    Fresh pages cost as much as the work itself: reusing them makes tiling 10 to 40 % faster.
    """

    def __init__(self) -> None:
        self.buffers = Buffers()


_POOL = _Pool()


def cut_pillow(
    image: Any, *, plan: Plan, exif: bool, background: Colour | None, out: Tensor | None
) -> Tiles:
    """Tiles of Pillow's own pixels."""
    picture = read_image(image, exif=exif, background=background)
    cut = plan(*picture.size)
    x0, y0, x1, y1 = cut.content
    content = np.asarray(resize_bicubic(picture, (x1 - x0, y1 - y0)))
    whole = np.asarray(resize_bicubic(picture, (cut.tile_size, cut.tile_size)))
    return _assemble(cut, torch.tensor(content), torch.tensor(whole), out)


def cut_exact(
    image: Any, *, plan: Plan, exif: bool, background: Colour | None, out: Tensor | None
) -> Tiles:
    """Tiles by torch's antialiased bicubic filter from the fully decoded picture."""
    raster = decode(image, plan=plan, exif=exif, background=background, buffers=_POOL.buffers)
    cut = raster.plan
    x0, y0, x1, y1 = cut.content
    content = _resize(raster, (x1 - x0, y1 - y0), "content")
    whole = None
    if cut.thumbnail is not None:
        whole = _resize(raster, (cut.tile_size, cut.tile_size), "thumbnail")
    return _assemble(cut, content, whole, out)


def cut_fast(
    image: Any, *, plan: Plan, exif: bool, background: Colour | None, out: Tensor | None
) -> Tiles:
    """As :func:`cut_exact`, from a scaled decode; the thumbnail from the canvas if that is smaller."""
    raster = decode(
        image, plan=plan, exif=exif, background=background, buffers=_POOL.buffers, scaled=True
    )
    cut = raster.plan
    x0, y0, x1, y1 = cut.content
    content = _resize(raster, (x1 - x0, y1 - y0), "content")
    whole = None
    if cut.thumbnail is not None:
        near = Raster(content, cut, 1) if content.numel() < raster.pixels.numel() else raster
        whole = _resize(near, (cut.tile_size, cut.tile_size), "thumbnail")
    return _assemble(cut, content, whole, out)


METHODS: dict[str, Callable[..., Tiles]] = {
    "pillow": cut_pillow,
    "exact": cut_exact,
    "fast": cut_fast,
}


def _resize(raster: Raster, size: tuple[int, int], name: str) -> UInt8[Tensor, "h w 3"]:
    """``raster`` resized to ``size`` (width, height) as seen upright, and turned upright.

    One axis at a time, the upright picture's width first, as Pillow does it: the clipping between
    the passes makes the order visible. A picture that lies on its side thus starts with its height.
    """
    lying = raster.orientation >= 5
    width, height = reversed(size) if lying else size
    first = (height, raster.pixels.shape[1]) if lying else (raster.pixels.shape[0], width)
    half = _pass(raster.pixels, first, _POOL.buffers.take(name + " pass", (*first, 3)))
    full = _pass(half, (height, width), _POOL.buffers.take(name, (height, width, 3)))
    return _turn(full, raster.orientation)


def _pass(
    source: UInt8[Tensor, "h w 3"], size: tuple[int, int], out: UInt8[Tensor, "h2 w2 3"]
) -> UInt8[Tensor, "h2 w2 3"]:
    if source.shape[:2] == size:
        return source
    # the SIMD kernel of torch wants channels-last memory, which h w c arrays have by themselves
    torch.ops.aten._upsample_bicubic2d_aa.out(
        rearrange(source, "h w c -> 1 c h w"),
        list(size),
        align_corners=False,
        out=rearrange(out, "h w c -> 1 c h w"),
    )
    return out


def _turn(pixels: UInt8[Tensor, "h w 3"], orientation: int) -> UInt8[Tensor, "h2 w2 3"]:
    """Undo an EXIF orientation."""
    upright = rearrange(pixels, "h w c -> w h c") if orientation >= 5 else pixels
    flips = {2: [1], 3: [0, 1], 4: [0], 6: [1], 7: [0, 1], 8: [0]}.get(orientation)
    return upright.flip(flips) if flips else upright


def _assemble(
    plan: TilePlan,
    content: UInt8[Tensor, "h w 3"],
    whole: UInt8[Tensor, "s s 3"] | None,
    out: Tensor | None,
) -> Tiles:
    """Copy the windows out of the canvas. Tiles are ``t c h w`` over channels-last memory."""
    size = plan.tile_size
    slab = _slab(plan, out)
    x0, y0, x1, y1 = plan.content
    padded = (x0, y0, x1, y1) != (0, 0, *plan.canvas)
    for tile, (x, y) in zip(slab[plan.window_slice], plan.windows, strict=True):
        if padded:
            tile.zero_()
        left, top = max(x, x0), max(y, y0)
        right, bottom = min(x + size, x1), min(y + size, y1)
        if left < right and top < bottom:
            tile[top - y : bottom - y, left - x : right - x] = content[
                top - y0 : bottom - y0, left - x0 : right - x0
            ]
    if plan.thumbnail_index is not None and whole is not None:
        slab[plan.thumbnail_index] = whole
    return Tiles(rearrange(slab, "t h w c -> t c h w"), plan)


def _slab(plan: TilePlan, out: Tensor | None) -> UInt8[Tensor, "t s s 3"]:
    shape = (plan.count, plan.tile_size, plan.tile_size, 3)
    if out is None:
        return torch.empty(shape, dtype=torch.uint8)
    need = plan.count * plan.tile_size * plan.tile_size * 3
    if out.dtype != torch.uint8 or not out.is_contiguous() or out.numel() < need:
        raise ValueError(
            f"out must be a contiguous uint8 tensor of at least {need} bytes, "
            f"got {out.dtype} with {out.numel()}"
        )
    return out.view(-1)[:need].view(shape)
