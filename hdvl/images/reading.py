"""Reading images: whatever Pillow opens becomes one upright RGB image, or one clear error.

Knows Pillow and numpy, not torch.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hdvl.images.files import ImageSource, name_of, read_bytes

Colour = Sequence[int]
"""Red, green and blue, 0..255."""

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused before they are decoded. Pillow itself stops here, and warns from half
of it on. Reading an image takes at most :data:`BYTES_PER_PIXEL` bytes of memory for each of its pixels."""

BYTES_PER_PIXEL = 8
"""The image as Pillow holds it (at most 4 bytes a pixel), and as RGB (4 bytes); beside its file."""

DECODER_COST = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
"""How many pixels one counts for, because the decoder of the format needs as much memory on its own."""

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
        except UnidentifiedImageError as error:
            raise ValueError(
                f"image {name} is not an image Pillow can read: {_kind_of(data)}"
            ) from error
        except _BROKEN as error:
            raise ValueError(f"image {name} is not an image Pillow can read: {error}") from error
    _check(image, name, max_pixels)
    return image


def _kind_of(data: bytes) -> str:
    """What a file that Pillow does not know is, where its first bytes say it."""
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
    low, high = (float(value) for value in np.asarray(image.getextrema()))
    if not 0 <= low <= high <= _top(image):
        raise ValueError(
            f"image {name} has mode {image.mode} with values {low}..{high}, which must lie in "
            f"0..{_top(image)} to be shown; scale it to 8 or 16 bits"
        )
