"""Reading images: whatever Pillow opens becomes one upright RGB image, or one clear error.

Knows Pillow and numpy, not torch.
"""

import base64
import binascii
import errno
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

Colour = Sequence[int]
"""Red, green and blue, 0..255."""

SOURCES = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
"""What counts as an image: a path, a file in base64 (bare, or as ``data:`` URL), its bytes, a Pillow
image, an array h w [c]."""

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused before they are decoded. Pillow itself stops here, and warns from half
of it on. Reading an image takes at most :data:`BYTES_PER_PIXEL` bytes of memory for each of its pixels."""

BYTES_PER_PIXEL = 8
"""The image as Pillow holds it (at most 4 bytes a pixel), and as RGB (4 bytes); beside its file."""

DECODER_COST = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
"""How many pixels one counts for, because the decoder of the format needs as much memory on its own."""

MAX_BYTES = 512 * 2**20
"""Image files of more bytes are refused before they are read."""

# What Pillow's readers raise on damaged files, found by cutting and flipping bytes of such files.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# How JPEG, PNG, GIF, WebP and TIFF files begin in base64. A path of that many such letters is no path.
# The quantifiers give nothing back (``+``), so that a text that is no base64 is known in linear time.
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,}+={0,2}+\s*+")
_SHOWN = 200
"""Characters of a path that errors show."""
# What the system says of paths that no file can have, beside those for which Python has an exception.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV)
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
) -> Image.Image:
    """The image as 8-bit RGB, upright.

    ``exif`` turns it by its EXIF orientation (Pillow turns TIFF files in any case). ``background``
    is the colour under transparent pixels; ``None`` drops alpha as ``convert("RGB")`` does, like
    the published systems. 16-bit grey is scaled to 8 bits, an animation gives its first frame with
    a warning. An image that needs no change is returned as it is, not copied.

    Raises:
        ValueError: empty, truncated or no image, no regular file, more than ``max_pixels`` or
            ``MAX_BYTES``, or values whose range is unknown; the message names the file.
        OSError: the file is not there or may not be read.
        MemoryError: there is less memory than ``BYTES_PER_PIXEL`` says.
    """
    return upright_rgb(
        open_image(source, max_pixels=max_pixels),
        name=name_of(source),
        exif=exif,
        background=background,
    )


def upright_rgb(
    image: Image.Image, *, name: str, exif: bool, background: Colour | None
) -> Image.Image:
    """The second half of :func:`read_image`: decode, turn, convert."""
    load_pixels(image, name=name)
    turn = _TURNS.get(orientation(image, name=name)) if exif else None
    try:
        image = to_rgb(image, background=background, name=name)
        return image if turn is None else image.transpose(turn)
    except MemoryError as error:
        raise MemoryError(_too_large_for_memory(image, name)) from error


def load_pixels(image: Image.Image, *, name: str) -> None:
    """Decode the pixels of ``image`` as its file has them.

    Raises:
        ValueError: the file is damaged, or holds another size than it says, so that the limit was not
            asked about it.
        MemoryError: there is too little memory.
    """
    size = image.size
    try:
        image.load()
    except _BROKEN as error:
        raise ValueError(f"image {name} is damaged or cut short: {error}") from error
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
    """``source`` as a Pillow image of known and checked size, its pixels not yet decoded."""
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
                f"max_pixels={max_pixels} of the tiler has no say here"
            ) from error
        except _BROKEN as error:
            raise ValueError(f"image {name} is not an image Pillow can read: {error}") from error
    _check(image, name, max_pixels)
    return image


def read_bytes(source: Any) -> bytes:
    """The bytes of a file given as path, as bytes or in base64. URLs other than ``data:`` are not fetched."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and (source[:5].lower() == "data:" or is_base64(source)):
        return _from_base64(source)
    if isinstance(source, str) and _URL.match(source):
        raise ValueError(f"an image must not be a URL to fetch, got {source[:200]!r}; download it")
    if isinstance(source, str | os.PathLike):
        return _read_file(source)
    raise TypeError(
        "an image must be a path, bytes, a Pillow image or a numpy array, "
        f"got {type(source).__name__}"
    )


def _read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most ``MAX_BYTES``.

    A pipe, a device or a socket is not opened at all: it may never answer, or never end.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in _NO_PATH:
            raise ValueError(
                f"an image must be a file, got {name_of(path)}: {error.strerror}"
            ) from error
        raise
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
        raise ValueError(f"image {name_of(path)} must be a regular file, it is {kind}")
    if status.st_size > MAX_BYTES:
        raise ValueError(
            f"image {name_of(path)} is too large: {status.st_size} bytes are more than the "
            f"{MAX_BYTES} bytes that an image file may have; scale it down or compress it"
        )
    with open(path, "rb", buffering=0) as file:  # at once: a buffer costs small files 2 %
        data = file.read(status.st_size)
        while len(data) < status.st_size and (more := file.read(status.st_size - len(data))):
            data += more
    return data


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_base64(source: Any) -> bool:
    """Whether ``source`` is a JPEG, PNG, GIF, WebP or TIFF file in base64 without ``data:``."""
    return isinstance(source, str) and _BASE64.fullmatch(source) is not None


def _from_base64(text: str) -> bytes:
    """The bytes of ``data:image/png;base64,...``, or of what follows the comma alone."""
    head, comma, body = text.partition(",")
    try:
        if is_base64(text):
            body = text
        elif not (comma and head.lower().endswith(";base64")):
            raise ValueError("it does not begin with data:TYPE;base64,")
        return base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(
            f"an image as text must be a whole file in base64, got {text[:60]!r}...: {error}"
        ) from error


def name_of(source: Any) -> str:
    """How errors call ``source``."""
    if isinstance(source, str) and source[:5].lower() == "data:":
        return f"(data URL of {len(source)} characters)"
    if is_base64(source):
        return f"(base64 of {len(source)} characters)"
    if isinstance(source, str | os.PathLike):
        text = str(source)
        return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "(Pillow image)")
    if isinstance(source, np.ndarray):
        return f"(array of shape {source.shape})"
    return f"({len(source)} bytes)" if isinstance(source, bytes) else f"({type(source).__name__})"


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
    """``image`` as RGB, in bands of rows from the top down: (first row, band).

    Conversion goes through images of 4 bytes a pixel, several at once where there is alpha. Of a band
    they are small.
    """
    convert = _plain_to_rgb
    if image.mode in _SIXTEEN_BIT or image.mode in ("I", "F"):
        _check_grey(image, name)
        convert = _grey_to_rgb
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        whole = (top, bottom) == (0, image.height)
        band = image if whole else image.crop((0, top, image.width, bottom))
        yield top, convert(band, background, name)


def _plain_to_rgb(image: Image.Image, background: Colour | None, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
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


def resize_bicubic(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Antialiased bicubic resize to ``size`` (width, height), the same under Pillow 12 and 13.

    Pillow 13 resizes tall images height first, earlier versions always width first, and the
    clipping between the passes makes that visible. One axis at a time leaves no choice.
    """
    return image.resize((size[0], image.height), Image.Resampling.BICUBIC).resize(
        size, Image.Resampling.BICUBIC
    )


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width < 1 or image.height < 1:
        raise ValueError(f"image {name} has no pixels: {image.width}x{image.height}")
    cost = DECODER_COST.get(image.format or "", 1)
    if image.width * image.height * cost > max_pixels:
        counted = f", each counted {cost} times for {image.format}," if cost > 1 else ""
        raise ValueError(
            f"image {name} is too large: {image.width}x{image.height} pixels{counted} are more than "
            f"max_pixels={max_pixels}; scale it down, or raise max_pixels of the tiler if you trust it"
        )
    # A phone's MPO file holds a depth or gain map behind the image: no animation.
    try:
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except _BROKEN as error:
        raise ValueError(f"image {name} is damaged or cut short: {error}") from error
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
    """What white is in grey of more than 8 bits."""
    return 1 if image.mode == "F" else 65535


def _check_grey(image: Image.Image, name: str) -> None:
    low, high = (float(value) for value in image.getextrema())
    if not 0 <= low <= high <= _top(image):
        raise ValueError(
            f"image {name} has mode {image.mode} with values {low}..{high}, which must lie in "
            f"0..{_top(image)} to be shown; scale it to 8 or 16 bits"
        )


__all__ = [
    "BYTES_PER_PIXEL",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SOURCES",
    "Colour",
    "ImageSource",
    "read_image",
    "resize_bicubic",
]
