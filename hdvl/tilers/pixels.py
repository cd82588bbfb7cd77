"""Reading, resizing and cutting of images, shared by all tilers."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from hdvl.geometry import Rect, Size
from hdvl.images import Colour, read_image
from hdvl.protocols import Pixels, TilePlan, Tiles
from hdvl.tilers.decode import Buffers, Raster, as_array, decode
from hdvl.tilers.filters import resize_pillow, torch_filter

Plan = Callable[[int, int], TilePlan]
Canvas = UInt8[np.ndarray, "_h _w 3"]


@dataclass(frozen=True)
class Reading:
    """Options of a tiler for reading, resizing and padding images, see :class:`hdvl.tilers.base.Cutter`.

    Attributes:
        exif: whether to rotate images by their EXIF orientation.
        background: colour under transparent pixels; ``None`` drops the alpha channel.
        max_pixels: images of more pixels raise.
        srgb: whether to convert an embedded colour profile to sRGB.
        resample: the resampling filter.
        padding: colour of the padding.
        out: tensor that the pixels are written into; ``None`` to allocate memory.
    """

    exif: bool
    background: Colour | None
    max_pixels: int
    srgb: bool
    resample: str
    padding: Colour
    out: Tensor | None


class _Pool(threading.local):
    """The buffers of one thread, which are reused from image to image.

    Allocating memory takes a large part of the time; reusing it makes tiling 10 to 40 % faster.
    """

    def __init__(self) -> None:
        self.buffers = Buffers()


_POOL = _Pool()


def cut_pillow(image: Any, *, plan: Plan, reading: Reading) -> Tiles:
    """Cut an image with Pillow.

    Args:
        image: anything that :func:`hdvl.images.read_image` supports.
        plan: returns the plan for a width and a height.
        reading: options of the tiler.
    """
    source = read_image(
        image,
        exif=reading.exif,
        background=reading.background,
        max_pixels=reading.max_pixels,
        srgb=reading.srgb,
    )
    cut = plan(*source.size)
    if cut.frame is not None:
        source = Image.fromarray(_framed(np.asarray(source), cut, reading.padding))
    for size in cut.steps:
        source = resize_pillow(source, size, reading.resample)
    content = whole = None
    if cut.windows:
        content = resize_pillow(source, _extent(cut.content), reading.resample)
    if cut.thumbnail is not None:
        if content is not None and cut.thumbnail_source == "canvas":
            source = content
        whole = resize_pillow(source, _thumbnail_extent(cut), reading.resample)
    return _assemble(
        cut,
        None if content is None else np.asarray(content),
        None if whole is None else np.asarray(whole),
        reading,
    )


def cut_torch(image: Any, *, plan: Plan, reading: Reading, fast: bool) -> Tiles:
    """Cut an image with the antialiased filters of torch.

    Args:
        image: anything that :func:`hdvl.images.read_image` supports.
        plan: returns the plan for a width and a height.
        reading: options of the tiler.
        fast: whether to decode JPEG files at a lower resolution, and to resize the thumbnail from the
            canvas if that is smaller than the image.
    """
    raster = decode(
        image,
        plan=plan,
        exif=reading.exif,
        background=reading.background,
        buffers=_POOL.buffers,
        max_pixels=reading.max_pixels,
        srgb=reading.srgb,
        scaled=fast,
    )
    cut = raster.plan
    if cut.frame is not None:
        raster = _frame(raster, reading.padding)
    for number, size in enumerate(cut.steps):
        raster = _resize_in_steps(raster, _resize(raster, size, f"step {number}", reading.resample))
    content = None
    if cut.windows:
        content = _resize(raster, _extent(cut.content), "content", reading.resample)
    whole = None
    if cut.thumbnail is not None:
        source = raster
        if content is not None:
            smaller = fast and content.numel() < raster.pixels.numel()
            if smaller or cut.thumbnail_source == "canvas":
                source = _resize_in_steps(raster, content)
        small = _resize(source, _thumbnail_extent(cut), "thumbnail", reading.resample)
        whole = _upright(small, raster)
    return _assemble(cut, None if content is None else _upright(content, raster), whole, reading)


METHODS: dict[str, Callable[..., Tiles]] = {
    "pillow": cut_pillow,
    "exact": partial(cut_torch, fast=False),
    "fast": partial(cut_torch, fast=True),
}


def _extent(rect: Rect) -> Size:
    return rect[2] - rect[0], rect[3] - rect[1]


def _thumbnail_extent(plan: TilePlan) -> Size:
    if plan.thumbnail_content is not None:
        return _extent(plan.thumbnail_content)
    return plan.sizes[plan.thumbnail_index or 0]


def _framed(pixels: Canvas, plan: TilePlan, padding: Colour) -> Canvas:
    """Return the frame of the plan, cropped out of the image and padded outside of it."""
    if plan.frame is None:
        return pixels
    width, height = _extent(plan.frame)
    framed = np.empty((height, width, 3), dtype=np.uint8)
    framed[:] = padding
    x0, y0 = plan.frame[:2]
    _paste(framed, pixels, (-x0, -y0))
    return framed


def _frame(raster: Raster, padding: Colour) -> Raster:
    """Return the frame of the plan as an upright raster."""
    framed = _framed(_upright(raster.pixels, raster), raster.plan, padding)
    pixels = torch.from_numpy(np.ascontiguousarray(framed))[None].permute(0, 3, 1, 2)
    return Raster(pixels, raster.plan, 1)


def _resize_in_steps(raster: Raster, pixels: UInt8[Tensor, "1 3 _h _w"]) -> Raster:
    return Raster(pixels, raster.plan, raster.orientation)


def _resize(raster: Raster, size: Size, name: str, resample: str) -> UInt8[Tensor, "1 3 h w"]:
    """Resize ``raster`` so that it has ``size`` (width, height) after it has been rotated upright.

    The width of the upright image is resized first, as in Pillow. The order matters, because values are
    clipped between the two passes. For an image that is stored on its side, the first pass is its height.
    """
    transposed = raster.orientation >= 5
    width, height = reversed(size) if transposed else size
    old_height, old_width = raster.pixels.shape[2:]
    first = (old_width, height) if transposed else (width, old_height)
    half = _resize_axis(raster.pixels, first, name + " pass", resample)
    return _resize_axis(half, (width, height), name, resample)


def _resize_axis(
    source: UInt8[Tensor, "1 3 h w"], size: Size, name: str, resample: str
) -> UInt8[Tensor, "1 3 h2 w2"]:
    width, height = size
    if source.shape[2:] == (height, width):
        return source
    out = _POOL.buffers.take(name, width, height)
    # torch has a SIMD kernel for channels-last memory only.
    torch_filter(resample).out(source, [height, width], align_corners=False, out=out)
    return out


def _upright(decoded: UInt8[Tensor, "1 3 h w"], raster: Raster) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return a view of the pixels rotated upright by the EXIF orientation."""
    pixels, turn = as_array(decoded), raster.orientation
    upright = pixels.transpose(1, 0, 2) if turn >= 5 else pixels
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(turn)
    return np.flip(upright, flips) if flips else upright


def _assemble(
    plan: TilePlan, content: Canvas | None, whole: Canvas | None, reading: Reading
) -> Tiles:
    """Copy the windows and the thumbnail to the views, (t, c, h, w) in channels-last memory."""
    buffers = _view_buffers(plan, reading.out)
    places = {size: iter(buffer.numpy()) for size, buffer in buffers.items()}
    views = [next(places[size]) for size in plan.sizes]
    if content is not None:
        x0, y0, x1, y1 = plan.content
        padded = x0 > 0 or y0 > 0 or x1 < plan.canvas[0] or y1 < plan.canvas[1]
        for view, (x, y) in zip(views[plan.window_slice], plan.windows, strict=True):
            if padded:
                view[:] = reading.padding
            _paste(view, content, (x0 - x, y0 - y))
    if whole is not None:
        thumbnail = views[plan.thumbnail_index or 0]
        if plan.thumbnail_content is None:
            thumbnail[:] = whole
        else:
            thumbnail[:] = reading.padding
            _paste(thumbnail, whole, plan.thumbnail_content[:2])
    groups = [buffer.permute(0, 3, 1, 2) for buffer in buffers.values()]
    pixels: Pixels = groups[0] if len(groups) == 1 else tuple(groups)
    return Tiles(pixels, plan)


def _paste(target: Canvas, source: Canvas, place: Size) -> None:
    """Copy ``source`` to ``target`` with its corner at ``place`` = (x, y); parts outside are cropped."""
    x, y = place
    left, top = max(0, x), max(0, y)
    right, bottom = (
        min(target.shape[1], x + source.shape[1]),
        min(target.shape[0], y + source.shape[0]),
    )
    if left < right and top < bottom:
        target[top:bottom, left:right] = source[top - y : bottom - y, left - x : right - x]


def _view_buffers(plan: TilePlan, out: Tensor | None) -> dict[Size, UInt8[Tensor, "_t _h _w 3"]]:
    """Return memory for the views of each size."""
    counts = Counter(plan.sizes)
    need = sum(count * width * height * 3 for (width, height), count in counts.items())
    if out is None:
        out = torch.empty(need, dtype=torch.uint8)
    elif out.dtype != torch.uint8 or not out.is_contiguous() or out.numel() < need or out.is_cuda:
        raise ValueError(
            f"out must be a contiguous uint8 tensor of at least {need} bytes on the CPU, "
            f"got {out.dtype} with {out.numel()} on {out.device}"
        )
    buffers, flat, start = dict[Size, Tensor](), out.view(-1), 0
    for (width, height), count in counts.items():
        stop = start + count * width * height * 3
        buffers[width, height] = flat[start:stop].view(count, height, width, 3)
        start = stop
    return buffers
