"""Every image that Pillow opens becomes an upright RGB image, or gives a clear error that names the file."""

import base64
import io
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl.images import read_bytes, read_image
from hdvl.tilers.filters import resize_pillow

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
IMAGE = Image.fromarray(NOISE)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same(left: Image.Image, right: Any) -> bool:
    return left.mode == "RGB" and np.array_equal(np.asarray(left), np.asarray(right))


# --- sources ------------------------------------------------------------------------------------


def test_path_bytes_array_and_image_are_the_same(tmp_path: Path) -> None:
    data = encoded(IMAGE, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = [path, str(path), data, bytearray(data), memoryview(data), NOISE, IMAGE]
    assert all(same(read_image(source), NOISE) for source in sources)
    assert read_image(IMAGE) is IMAGE


def test_arrays_of_every_layout() -> None:
    grey = NOISE[..., 0]
    assert same(read_image(grey), np.stack([grey] * 3, -1))
    assert same(read_image(grey[..., None]), np.stack([grey] * 3, -1))
    opaque = np.dstack([NOISE, np.full(grey.shape, 255, np.uint8)])
    assert same(read_image(opaque), NOISE)
    assert same(read_image(grey.astype(np.uint16) * 257), np.stack([grey] * 3, -1))


@pytest.mark.parametrize(
    "array", [NOISE.astype(np.float32), NOISE[None], NOISE[..., :0], NOISE.astype(np.uint16)]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(array of shape .*\) must be uint8 h w or h w c"):
        read_image(array)


def test_an_array_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="has no pixels"):
        read_image(NOISE[:0])


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"an image must be a path, bytes, .* got int"):
        read_bytes(3)


# --- honoured whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Turning the upright image back as the tag says, and storing that, gives it again."""
    stored = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE),
        7: np.rot90(NOISE, 2).transpose(1, 0, 2),
        8: np.rot90(NOISE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    plain = np.asarray(read_image(data, exif=False))
    assert plain.shape == stored.shape
    if kind == "JPEG":  # lossy: only the size is comparable
        assert read_image(data).size == IMAGE.size
    else:
        assert np.array_equal(plain, stored)
        assert same(read_image(data), NOISE)


def test_unknown_orientation_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert same(read_image(encoded(IMAGE, "PNG", exif=exif)), NOISE)


def test_unreadable_exif_is_reported() -> None:
    data = encoded(IMAGE, "PNG", exif=b"Exif\0\0nothing of use")
    with pytest.warns(UserWarning, match="EXIF data unreadable, not turned"):
        assert same(read_image(data), NOISE)
    assert same(read_image(data, exif=False), NOISE)


def test_alpha_is_composited_on_the_background() -> None:
    alpha = np.zeros((30, 40, 1), np.uint8)
    alpha[:15] = 255
    image = Image.fromarray(np.concatenate([NOISE, alpha], 2))
    want = NOISE.copy()
    want[15:] = (255, 255, 255)
    assert same(read_image(image), want)
    want[15:] = (10, 20, 30)
    assert same(read_image(encoded(image, "PNG"), background=(10, 20, 30)), want)
    assert same(read_image(image, background=None), NOISE)


def test_half_transparent_grey() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 128)])
    level = np.asarray(read_image(image, background=(200, 200, 200)))
    assert np.abs(level.astype(int) - 150).max() <= 1


def test_palette_with_transparency() -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (2, 0, 4, 2))
    data = encoded(image, "PNG", transparency=1)
    pixels = np.asarray(read_image(data, background=(1, 2, 3)))
    assert pixels[0].tolist() == [[255, 0, 0]] * 2 + [[1, 2, 3]] * 2
    pixels = np.asarray(read_image(data, background=None))
    assert pixels[0].tolist() == [[255, 0, 0]] * 2 + [[0, 255, 0]] * 2


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (7, 7, 7))
    data = encoded(image, "PNG", transparency=(7, 7, 7))
    assert np.asarray(read_image(data)).tolist() == [[[9, 9, 9], [255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled() -> None:
    levels = np.array([[0, 128, 129, 32768, 65535]], np.uint16)
    data = encoded(Image.fromarray(levels), "PNG")
    assert np.asarray(read_image(data))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    data = encoded(Image.fromarray(levels), "PNG", transparency=32768)
    assert np.asarray(read_image(data, background=(1, 2, 3)))[0, 3].tolist() == [1, 2, 3]


def test_integer_and_float_grey() -> None:
    wide = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert np.asarray(read_image(wide))[0, :, 0].tolist() == [0, 255]
    real = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(read_image(real))[0, :, 0].tolist() == [0, 128, 255]
    for values in (np.array([[-1, 3]], np.int32), np.array([[0, 70000]], np.int32)):
        with pytest.raises(ValueError, match=r"mode I with values .* must lie in 0..65535"):
            read_image(Image.fromarray(values))
    with pytest.raises(ValueError, match=r"mode F with values 0.0..255.0, which must lie in 0..1"):
        read_image(Image.fromarray(np.array([[0, 255]], np.float32)))


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "P"])
def test_other_modes(mode: str) -> None:
    image = IMAGE.convert(mode)
    assert same(read_image(image), image.convert("RGB"))


def test_cmyk_jpeg() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    red = np.asarray(read_image(data))[0, 0]
    assert red[0] > 250 and red[1:].max() < 5


def test_a_mode_without_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match="has mode La, which has no RGB"):
        read_image(Image.new("La", (2, 2)), background=None)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame_with_a_warning(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="is animated: only its first frame is used"):
        assert same(read_image(data), frames[0])


def test_a_phones_second_image_is_no_animation() -> None:
    data = encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE])
    assert read_image(data).size == IMAGE.size


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad\.png is empty \(0 bytes\)"),
        (b"no image at all", r"bad\.png is not an image Pillow can read"),
        (encoded(IMAGE, "PNG")[:-500], r"bad\.png is damaged or truncated"),
        (encoded(IMAGE, "JPEG")[:-200], r"bad\.png is damaged or truncated"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_image(path)


def png_of_size(width: int, height: int, *, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG that claims a size, with the pixels of ``rows``: by default none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def test_a_palette_that_is_not_there_is_reported() -> None:
    image = png_of_size(4, 3, colour=3, rows=(b"\0" + b"\5" * 4) * 3)
    for background in (None, (255, 255, 255)):
        with pytest.raises(ValueError, match="places in a palette, which it does not have"):
            read_image(image, background=background)


@pytest.mark.parametrize("kind", [7, 10])  # bytes, and fractions
def test_a_tiff_whose_strip_is_at_no_number_is_reported(kind: int) -> None:
    whole = encoded(IMAGE, "TIFF")
    place = whole.index(struct.pack("<HH", 273, 4))  # the tag StripOffsets, a whole number
    damaged = whole[: place + 2] + struct.pack("<H", kind) + whole[place + 4 :]
    with pytest.raises(ValueError, match="is damaged or truncated"):
        read_image(damaged)


def test_a_program_for_ghostscript_is_not_run() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    with pytest.raises(ValueError, match=r"is EPS, a program .* convert it to PNG"):
        read_image(program)


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_decompression_bombs_are_named(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(side, side))
    with pytest.raises(ValueError, match=r"bomb\.png is too large"):
        read_image(path)


def test_max_pixels() -> None:
    assert read_image(IMAGE, max_pixels=1200).size == (40, 30)
    with pytest.raises(ValueError, match="40x30 pixels are more than max_pixels=1199"):
        read_image(IMAGE, max_pixels=1199)


def test_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_flipped_and_missing_bytes_raise_only_value_errors(kind: str) -> None:
    draw = random.Random(kind)
    frames = {"save_all": True, "append_images": [IMAGE.rotate(180)]} if kind == "GIF" else {}
    whole = encoded(IMAGE, kind, **frames)
    for trial in range(40):
        data = bytearray(whole[: draw.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(draw.randrange(1, 4) if data else 0):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_image(bytes(data)).mode == "RGB"
            except ValueError as error:
                assert str(error).startswith("image (")


# --- resizing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (13, 90), (7, 5), (200, 11), (1, 1)])
def test_resize_is_width_first_whatever_pillow_does(size: tuple[int, int]) -> None:
    """Pillow up to 12 resizes width first; so must this, under Pillow 13 and for tall images."""
    for image in (IMAGE, IMAGE.transpose(Image.Transpose.ROTATE_90)):
        wide = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
        want = wide.resize(size, Image.Resampling.BICUBIC)
        assert same(resize_pillow(image, size, "bicubic"), want)


def test_data_urls() -> None:
    image = Image.new("RGB", (3, 2), (200, 10, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    body = base64.b64encode(buffer.getvalue()).decode()
    for url in (
        f"data:image/png;base64,{body}",
        f"DATA:image/png;charset=x;BASE64,{body[:20]}\n {body[20:]}",
        body,
        f"{body[:20]}\n{body[20:]}\n",
    ):
        assert read_image(url).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png,abc", "does not begin with data:TYPE;base64,"),
        ("data:image/png;base64", "does not begin with"),
        (
            "data:image/png;base64,%%%",
            "must be a whole file in base64, got 'data:image/png;base64,%%%'",
        ),
        ("data:image/png;base64,", r"image \(data URL of 22 characters\) is empty"),
        ("data:image/png;base64,AAAA", "is not an image Pillow can read"),
        ("iVBORw0KGgo" + "A" * 50, "must be a whole file in base64, got 'iVBORw0KGgoAAA"),
        (
            "/9j/" + "A" * 48,
            r"image \(base64 of 52 characters\) is not an image Pillow can read",
        ),
        (
            "https://example.org/a.png",
            "must not be a URL to fetch, got 'https://example.org/a.png'",
        ),
        ("FILE:///a.png", "must not be a URL to fetch"),
    ],
)
def test_urls_that_are_no_image(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_image(url)
    assert len(str(caught.value)) < 300
