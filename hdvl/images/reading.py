"""Reads every image that Pillow can open as one upright RGB image, or raises one clear error.

This module uses Pillow and numpy, but not torch.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hdvl.images.files import ImageSource, name_of, read_bytes
from hdvl.images.profiles import to_srgb

Colour = Sequence[int]
"""Red, green and blue, 0..255."""

MAX_PIXELS = 178_956_970
"""The largest number of pixels of an image, which is checked before decoding.

It is also the limit of Pillow, which warns at half of it. Reading an image takes at most
:data:`BYTES_PER_PIXEL` bytes of memory for each pixel.
"""

BYTES_PER_PIXEL = 8
"""Bytes per pixel of the decoded image (at most 4) and of its RGB copy (4), without the file itself."""

DECODER_COST = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
"""Factors by which pixels count against the limit, because decoders of these formats need more memory."""

# Errors of Pillow's readers for damaged files, found by truncating files and changing their bytes.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, AttributeError, AssertionError, EOFError),
    *(LookupError, ArithmeticError, RuntimeError, struct.error, zlib.error),
)
_BAND_PIXELS = 2**20
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: ImageSource,
    *,
    exif: bool = True,
    background: Colour | None = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    srgb: bool = True,
) -> Image.Image:
    """The image as 8-bit RGB, upright.

    16-bit grey is scaled to 8 bits. Of an animation the first frame is used, with a warning. An image that
    needs no change is returned without a copy.

    Args:
        source: the image, see ``ImageSource``.
        exif: whether to rotate the image by its EXIF orientation (Pillow always rotates TIFF files).
        background: the colour under transparent pixels; ``None`` drops alpha like ``convert("RGB")``, as
            the published systems do.
        max_pixels: the largest number of pixels.
        srgb: whether to convert an embedded colour profile to sRGB; the published systems do not.

    Raises:
        ValueError: the file is empty, truncated, no image or no regular file, has more than ``max_pixels``
            or ``MAX_BYTES``, or values of unknown range; the message names the file.
        OSError: the file does not exist or cannot be read.
        MemoryError: there is too little memory.
    """
    return upright_rgb(
        open_image(source, max_pixels=max_pixels),
        name=name_of(source),
        exif=exif,
        background=background,
        srgb=srgb,
    )


def upright_rgb(
    image: Image.Image, *, name: str, exif: bool, background: Colour | None, srgb: bool = False
) -> Image.Image:
    """Decode, rotate and convert an opened image, see :func:`read_image`."""
    load_pixels(image, name=name)
    turn = _TURNS.get(orientation(image, name=name)) if exif else None
    try:
        if srgb:
            image = to_srgb(image, name=name)
        image = to_rgb(image, background=background, name=name)
        return image if turn is None else image.transpose(turn)
    except MemoryError as error:
        raise MemoryError(_too_large_for_memory(image, name)) from error


def load_pixels(image: Image.Image, *, name: str) -> None:
    """Decode the pixels of ``image`` without converting them.

    Raises:
        ValueError: the file is damaged, or its size differs from that in its header, which was compared
            with the limit.
        MemoryError: there is too little memory.
    """
    size = image.size
    try:
        image.load()
    except _BROKEN as error:
        raise ValueError(f"image {name} is damaged or truncated: {error}") from error
    except MemoryError as error:
        raise MemoryError(_too_large_for_memory(image, name)) from error
    if image.size != size:
        raise ValueError(
            f"image {name} must have the size that its header says, {size[0]}x{size[1]}, it has "
            f"{image.width}x{image.height}"
        )


def _too_large_for_memory(image: Image.Image, name: str) -> str:
    return (
        f"image {name} of {image.width}x{image.height} pixels takes more memory than there is, up to "
        f"{BYTES_PER_PIXEL * image.width * image.height / 2**20:.0f} MiB; scale it down, or refuse such "
        "images with a smaller max_pixels of the tiler"
    )


def open_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Open ``source`` as a Pillow image and check its size, without decoding its pixels."""
    name = name_of(source) if name is None else name
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, np.ndarray):
        image = _from_array(source, name)
    else:
        data = read_bytes(source)
        if not data:
            raise ValueError(f"image {name} is empty (0 bytes)")
        try:
            image = Image.open(io.BytesIO(data))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(
                f"image {name} is too large for Pillow: {error} Scale it down; "
                f"max_pixels={max_pixels} of the tiler does not change this limit"
            ) from error
        except UnidentifiedImageError as error:
            raise ValueError(
                f"image {name} is not an image Pillow can read: {_kind_of(data)}"
            ) from error
        except _BROKEN as error:
            raise ValueError(f"image {name} is not an image Pillow can read: {error}") from error
    _check(image, name, max_pixels)
    return image


def _kind_of(data: bytes) -> str:
    """A description of a file that Pillow cannot read, by its first bytes."""
    if data[4:8] == b"ftyp" and data[8:12] in (
        b"heic",
        b"heix",
        b"hevc",
        b"heim",
        b"mif1",
        b"msf1",
    ):
        return "it is HEIC, which needs the plugin pillow-heif; convert it to JPEG or PNG"
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        return "it is JPEG XL, which needs a plugin; convert it to JPEG or PNG"
    return f"it begins with {data[:16]!r}"


def orientation(image: Image.Image, *, name: str) -> int:
    """EXIF orientation 1..8. Unreadable EXIF data counts as upright, with a warning."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN as error:
        warnings.warn(f"image {name}: EXIF data unreadable, not turned: {error}", stacklevel=3)
        return 1
    return value if value in _TURNS else 1


def to_rgb(image: Image.Image, *, background: Colour | None, name: str) -> Image.Image:
    """Any mode to RGB, alpha composited on ``background`` (or dropped)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    rgb = Image.new("RGB", image.size)
    for top, band in rgb_bands(image, background=background, name=name):
        rgb.paste(band, (0, top))
    return rgb


def rgb_bands(
    image: Image.Image, *, background: Colour | None, name: str
) -> Iterator[tuple[int, Image.Image]]:
    """``image`` as RGB in bands of rows from top to bottom: (first row, band).

    Conversion needs copies with 4 bytes per pixel, several of them if there is alpha. Bands keep them small.
    """
    convert = _plain_to_rgb
    if image.mode in _SIXTEEN_BIT or image.mode in ("I", "F"):
        _check_grey(image, name)
        convert = _grey_to_rgb
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        single_band = (top, bottom) == (0, image.height)
        band = image if single_band else image.crop((0, top, image.width, bottom))
        yield top, convert(band, background, name)


def _plain_to_rgb(image: Image.Image, background: Colour | None, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError(
            f"image {name} is damaged: its pixels are places in a palette, which it does not have"
        )
    try:
        if background is None or not image.has_transparency_data:
            return image.convert("RGB")
        rgba = image.convert("RGBA")
    except ValueError as error:
        raise ValueError(
            f"image {name} has mode {image.mode}, which has no RGB: {error}"
        ) from error
    ground = Image.new("RGBA", rgba.size, (*background, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


def _grey_to_rgb(image: Image.Image, background: Colour | None, name: str) -> Image.Image:
    values = np.asarray(image)
    grey = Image.fromarray(np.round(values * (255 / _top(image))).astype(np.uint8)).convert("RGB")
    hole = image.info.get("transparency")  # the one grey level of a PNG that is transparent
    if background is None or hole is None:
        return grey
    mask = Image.fromarray(values == hole)
    return Image.composite(Image.new("RGB", grey.size, (*background,)), grey, mask)


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.format == "EPS":
        raise ValueError(
            f"image {name} is EPS, a program that Pillow would let Ghostscript run; convert it to PNG"
        )
    if image.width < 1 or image.height < 1:
        raise ValueError(f"image {name} has no pixels: {image.width}x{image.height}")
    cost = DECODER_COST.get(image.format or "", 1)
    if image.width * image.height * cost > max_pixels:
        counted = f", each counted {cost} times for {image.format}," if cost > 1 else ""
        raise ValueError(
            f"image {name} is too large: {image.width}x{image.height} pixels{counted} are more than "
            f"max_pixels={max_pixels}; scale it down, or raise max_pixels of the tiler if you trust it"
        )
    # MPO files of phones have a depth or gain map after the image, which is no animation.
    try:
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except _BROKEN as error:
        raise ValueError(f"image {name} is damaged or truncated: {error}") from error
    if animated and image.tell() == 0:
        warnings.warn(f"image {name} is animated: only its first frame is used", stacklevel=4)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    flat = array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array
    grey16 = flat.dtype == np.uint16 and flat.ndim == 2
    colour = flat.dtype == np.uint8 and (
        flat.ndim == 2 or (flat.ndim == 3 and flat.shape[-1] in (2, 3, 4))
    )
    if not (grey16 or colour):
        raise ValueError(
            f"image {name} must be uint8 h w or h w c with 1..4 channels, or uint16 h w, "
            f"got {array.dtype}; convert it first"
        )
    if flat.size == 0:
        raise ValueError(f"image {name} has no pixels")
    return Image.fromarray(flat)


def _top(image: Image.Image) -> int:
    """The value of white in grey images with more than 8 bits."""
    return 1 if image.mode == "F" else 65535


def _check_grey(image: Image.Image, name: str) -> None:
    low, high = (float(value) for value in np.asarray(image.getextrema()))
    if not 0 <= low <= high <= _top(image):
        raise ValueError(
            f"image {name} has mode {image.mode} with values {low}..{high}, which must lie in "
            f"0..{_top(image)} to be shown; scale it to 8 or 16 bits"
        )
