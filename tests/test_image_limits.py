"""Image files cannot cause hangs, fill the memory, or take long to be distinguished from text."""

import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdvl.images import (
    BYTES_PER_PIXEL,
    DECODER_COST,
    MAX_BYTES,
    MAX_PIXELS,
    open_image,
    read_bytes,
    read_image,
    rgb_bands,
)
from hdvl.tilers import DynamicRatio, Squash

COLOUR_TYPES = {"1": (1, 0, 1), "RGBA": (8, 6, 4)}


def png(width: int, height: int, mode: str = "1") -> bytes:
    """A black image that is small as a file, whatever its size."""
    depth, colour, channels = COLOUR_TYPES[mode]

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    row = bytes(1 + (width * depth * channels + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# --- what a text is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "iVBORw0KGgo" + " " * 200_000 + "!",
        "iVBORw0KGgo" + "A " * 100_000 + "=!",
        "iVBORw0KGgo" + "A" * 200_000 + "==" + " " * 100_000 + "!",
        "an image of words " * 10_000,
    ],
)
def test_a_long_text_that_is_no_base64_is_told_in_linear_time(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"an image must be a file, got .*characters\)"):
        read_bytes(text)
    assert time.perf_counter() - start < 1


def test_a_long_path_is_shortened_in_errors() -> None:
    with pytest.raises(ValueError, match="File name too long") as caught:
        read_image("x" * 30_000)
    assert len(str(caught.value)) < 400


def test_a_loop_of_links_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    with pytest.raises(ValueError, match=r"an image must be a file, got .*a\.png: Too many levels"):
        read_image(tmp_path / "a.png")


# --- regular files of bounded size --------------------------------------------------------------


def test_a_named_pipe_is_reported_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png must be a regular file, it is a named pipe"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty"])
def test_devices_are_reported_at_once(device: str, tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(device)
    for path in (device, link):
        with pytest.raises(ValueError, match="must be a regular file, it is a device"):
            read_image(path)


def test_a_folder_and_a_socket_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="must be a regular file, it is a folder"):
        read_image(tmp_path)
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        with pytest.raises(ValueError, match="must be a regular file, it is a socket"):
            read_image("s.png")


def test_a_sparse_file_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)
    message = rf"sparse\.png is too large: 53687091200 bytes are more than the {MAX_BYTES} bytes"
    with pytest.raises(ValueError, match=message):
        read_image(path)


# --- pixels -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(13_000, 13_000)
    monkeypatch.setattr(Image.Image, "load", pytest.fail)
    for backend in ("pillow", "exact", "fast"):
        tiler = Squash(tile_size=8, backend=backend, max_pixels=168_999_999)
        message = "13000x13000 pixels are more than max_pixels=168999999; .*max_pixels of the tiler"
        with pytest.raises(ValueError, match=message):
            tiler(data)
    with pytest.raises(ValueError, match=r"too large for Pillow.*196000000 pixels"):
        open_image(png(14_000, 14_000))


@pytest.mark.parametrize("limit", [0, -1, MAX_PIXELS + 1])
def test_the_limit_must_be_one_that_pillow_has(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"max_pixels must be in 1\.\.178956970, .* got {limit}"):
        Squash(max_pixels=limit)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG2000"])
def test_decoders_that_need_more_memory_get_fewer_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image.new("RGB", (40, 30)).save(path, kind)
    needed = 40 * 30 * DECODER_COST[kind]
    assert read_image(path, max_pixels=needed).size == (40, 30)
    with pytest.raises(ValueError, match=f"40x30 pixels, each counted . times for {kind}, are"):
        read_image(path, max_pixels=needed - 1)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_a_narrow_image_is_not_widened_beyond_the_limit(backend: str) -> None:
    narrow = Image.new("L", (1, 50_000))
    tiler = DynamicRatio(tile_size=448, backend=backend, max_pixels=1_000_000)
    with pytest.raises(ValueError, match="an image of 1x50000 pixels is too narrow: resized to a"):
        tiler(narrow)
    assert tiler(narrow.rotate(90, expand=True)).plan.cols == 12


def test_a_file_of_another_size_than_its_header_says_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image.new("RGB", (4, 4))

    def load(self: Image.Image) -> None:
        self._size = (5, 4)

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ValueError, match="the size that its header says, 4x4, it has 5x4"):
        read_image(image)


def test_too_little_memory_is_reported_with_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(MemoryError, match=r"of 1024x1024 pixels takes more memory than .* 8 MiB"):
        read_image(Image.new("L", (1024, 1024)))


def test_bands_are_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    whole = Image.fromarray(noise)
    images = [
        whole,
        whole.convert("P"),
        whole.convert("LA"),
        Image.fromarray(noise.view("<u2")[..., 0]),
    ]
    expected = [np.asarray(read_image(image)) for image in images]
    monkeypatch.setattr("hdvl.images.reading._BAND_PIXELS", 7 * 40)
    for image, pixels in zip(images, expected, strict=True):
        bands = list(rgb_bands(image, background=(255, 255, 255), name="x"))
        assert [top for top, _ in bands] == [0, 7, 14, 21, 28, 35, 42, 49]
        assert np.array_equal(np.concatenate([np.asarray(band) for _, band in bands]), pixels)
        assert np.array_equal(np.asarray(read_image(image)), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pillow", "exact"])
@pytest.mark.parametrize("mode", ["1", "RGBA"])
def test_memory_stays_within_the_documented_bound(backend: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(6000, 6000, mode))
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from hdvl.tilers import Squash\n"
        f"tiler = Squash(backend={backend!r})\n"
        "tiler(Image.new('RGB', (2000, 2000)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tiler(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit <= 1.05 * BYTES_PER_PIXEL * 6000 * 6000
