"""Decoding for the torch backends: JPEG files into a reused buffer, other formats by Pillow."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from hdvl.geometry import TilePlan
from hdvl.images import (
    Colour,
    has_other_profile,
    load_pixels,
    name_of,
    open_image,
    orientation,
    read_bytes,
    rgb_bands,
    upright_rgb,
)

KEEP_BYTES = 48 * 2**20
"""Larger buffers are not kept, so that the memory of a single huge image is released."""


class Buffers:
    """Named image buffers that are reused and grow as needed. Not thread-safe."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def take(self, name: str, width: int, height: int) -> UInt8[Tensor, "1 3 h w"]:
        """Return the buffer ``name`` as an image of this size in channels-last memory, not initialised."""
        last = self._last.get(name)
        if last is not None and last.shape[2:] == (
            height,
            width,
        ):  # images often have the same size
            return last
        need = height * width * 3
        held = self._held.get(name)
        with torch.inference_mode(False):  # an inference tensor could not be written to later
            if held is None or held.numel() < need:
                held = torch.empty(need, dtype=torch.uint8)
            image = held[:need].view(1, height, width, 3).permute(0, 3, 1, 2)
        if need <= KEEP_BYTES:
            self._held[name], self._last[name] = held, image
        return image


def as_array(image: UInt8[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a numpy view (h, w, c) of the image; slicing it takes a tenth of the time of torch."""
    array: np.ndarray = image.numpy()[0].transpose(1, 2, 0)
    return array


@dataclass(frozen=True)
class Raster:
    """A decoded image that has not been rotated by its EXIF orientation yet.

    Attributes:
        pixels: the pixels as stored in the file.
        plan: the plan of the upright image.
        orientation: the EXIF orientation, 1..8.
    """

    pixels: UInt8[Tensor, "1 3 h w"]
    plan: TilePlan
    orientation: int


def decode(
    source: Any,
    *,
    plan: Callable[[int, int], TilePlan],
    exif: bool,
    background: Colour | None,
    buffers: Buffers,
    max_pixels: int,
    srgb: bool = False,
    scaled: bool = False,
) -> Raster:
    """Decode an image. JPEG files are not rotated, because rotating the resized canvas is cheaper.

    Args:
        source: anything that :func:`hdvl.images.read_image` supports.
        plan: returns the plan for a width and a height.
        exif: whether to rotate images by their EXIF orientation.
        background: colour under transparent pixels; ``None`` drops the alpha channel.
        buffers: the buffers to decode into.
        max_pixels: images of more pixels raise.
        srgb: whether to convert an embedded colour profile to sRGB.
        scaled: whether to decode JPEG files at 1/2, 1/4 or 1/8 of their size if that covers the canvas.
    """
    name = name_of(source)
    data = None if isinstance(source, Image.Image | np.ndarray) else read_bytes(source)
    image = open_image(source if data is None else data, max_pixels=max_pixels, name=name)
    converts = srgb and has_other_profile(image)
    jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
    if data is None or not jpeg or converts:
        load_pixels(image, name=name)
        if converts or (exif and orientation(image, name=name) > 1):
            image = upright_rgb(image, name=name, exif=exif, background=background, srgb=srgb)
        cut = plan(*image.size)
        return Raster(_copy(image, buffers, background=background, name=name), cut, 1)
    turn = orientation(image, name=name) if exif else 1
    cut = plan(*(reversed(image.size) if turn >= 5 else image.size))
    factor = _factor(image.size, cut, transposed=turn >= 5) if scaled else 1
    return Raster(_decode_jpeg(data, image, name, factor, buffers), cut, turn)


def _factor(size: tuple[int, int], plan: TilePlan, *, transposed: bool) -> int:
    """Return the largest of 8, 4, 2, 1 by which the image can be divided and still cover the canvas."""
    x0, y0, x1, y1 = plan.content
    need = (y1 - y0, x1 - x0) if transposed else (x1 - x0, y1 - y0)
    ratio = min(side / needed for side, needed in zip(size, need, strict=True))
    return next((factor for factor in (8, 4, 2) if ratio >= factor), 1)


def _decode_jpeg(
    data: bytes, image: Image.Image, name: str, factor: int, buffers: Buffers
) -> UInt8[Tensor, "1 3 h w"]:
    width, height = (math.ceil(side / factor) for side in image.size)
    try:
        import simplejpeg
    except ImportError:
        simplejpeg = None
    if simplejpeg is not None:
        buffer = buffers.take("decoded", width, height)
        array = as_array(buffer)
        try:
            simplejpeg.decode_jpeg(data, buffer=array, min_height=height, min_width=width)
            return buffer
        except ValueError:
            # simplejpeg rejects flaws that Pillow tolerates, so Pillow decides whether a file is damaged.
            pass
    if factor > 1:
        # Pillow rounds down when it computes the scale from the requested size.
        image.draft("RGB", (image.width // factor, image.height // factor))
    load_pixels(image, name=name)
    return _copy(image, buffers, background=None, name=name)


def _copy(
    image: Image.Image, buffers: Buffers, *, background: Colour | None, name: str
) -> UInt8[Tensor, "1 3 h w"]:
    """Return the pixels as RGB, converted in bands of rows to avoid a second copy of the whole image."""
    out = buffers.take("decoded", *image.size)
    array = as_array(out)
    for top, band in rgb_bands(image, background=background, name=name):
        np.copyto(array[top : top + band.height], np.asarray(band))
    return out
