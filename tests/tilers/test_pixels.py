"""The torch backends compared with Pillow: orientation, JPEG decoding, scaled decoding, buffers."""

import io
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.protocols import Tiles
from hdvl.tilers import AnyRes, DynamicRatio, SlidingWindow, Squash


def jpeg(image: Image.Image, *, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, **{"quality": 90, **options})
    return buffer.getvalue()


def apart(left: Tiles, right: Tiles) -> int:
    """The largest difference of a pixel, of tiles cut by the same plan."""
    assert left.plan == right.plan
    return int((left.pixels.int() - right.pixels.int()).abs().max())


def decibels(left: Tiles, right: Tiles) -> float:
    error = (left.pixels.float() - right.pixels.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def smooth(width: int, height: int) -> Image.Image:
    """An image without fine detail: 6 x 4 random colours, blown up."""
    colours = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(params=["with simplejpeg", "without simplejpeg"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without simplejpeg":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)


@pytest.mark.slow_beyond(4)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.usefixtures("decoder")
def test_exact_is_within_two_of_pillow(orientation: int, exif: bool, noise: Any) -> None:
    options: dict[str, Any] = {"tile_size": 64, "max_tiles": 6, "exif": exif}
    for index, size in enumerate([(300, 170), (61, 233), (500, 30)]):
        data = jpeg(noise(*size), orientation=orientation, subsampling=index)
        pillow = DynamicRatio(backend="pillow", **options)(data)
        exact = DynamicRatio(backend="exact", **options)(data)
        assert apart(pillow, exact) <= 2


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 700), (2500, 2000), (7, 5)])
def test_exact_is_within_two_of_pillow_at_any_scale(size: tuple[int, int], noise: Any) -> None:
    image = noise(*size)
    for options in ({"tile_size": 32, "max_tiles": 5}, {"tile_size": 160, "max_tiles": 3}):
        pillow = DynamicRatio(backend="pillow", **options)(image)
        assert apart(pillow, DynamicRatio(backend="exact", **options)(image)) <= 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.usefixtures("decoder")
def test_jpegs_without_colour_or_in_print_colours(mode: str) -> None:
    data = jpeg(smooth(200, 100).convert(mode))
    assert apart(Squash(tile_size=64)(data), Squash(tile_size=64, backend="exact")(data)) <= 2


def test_progressive_jpeg() -> None:
    data = jpeg(smooth(200, 100), progressive=True)
    assert apart(Squash(tile_size=64)(data), Squash(tile_size=64, backend="exact")(data)) <= 2


def test_a_flaw_that_pillow_tolerates_is_tolerated() -> None:
    """Extra bytes between two segments give a warning of libjpeg, and the strict decoder refuses them."""
    import simplejpeg

    data = jpeg(smooth(64, 64))
    table = data.index(b"\xff\xdb")
    flawed = data[:table] + b"\x00\x00" + data[table:]
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(flawed)
    assert apart(Squash(tile_size=64)(flawed), Squash(tile_size=64, backend="exact")(flawed)) <= 2


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_a_truncated_jpeg_is_refused(backend: Any, tmp_path: Any) -> None:
    path = tmp_path / "half.jpg"
    data = jpeg(smooth(64, 64))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.jpg is damaged or truncated"):
        Squash(backend=backend)(path)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_transparent_pixels_take_the_background(backend: Any) -> None:
    clear = Image.new("RGBA", (40, 40), (9, 9, 9, 0))
    for background, level in (((1, 2, 3), [1, 2, 3]), (None, [9, 9, 9])):
        tiles = Squash(tile_size=16, backend=backend, background=background)(clear)
        assert tiles.pixels[0, :, 3, 4].tolist() == level


@pytest.mark.slow_beyond(8)
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.usefixtures("decoder")
def test_fast_is_close_to_exact(orientation: int, factor: int) -> None:
    """Scaled decoding of a large JPEG, the same plan, boxes and orientation."""
    options: dict[str, Any] = {"tile_size": 64, "max_tiles": 6}
    data = jpeg(smooth(192 * factor + 5, 128 * factor + 3), orientation=orientation)
    exact = DynamicRatio(backend="exact", **options)(data)
    fast = DynamicRatio(backend="fast", **options)(data)
    assert exact.plan == fast.plan
    assert decibels(exact, fast) > 42


@pytest.mark.usefixtures("decoder")
def test_fast_decodes_at_the_largest_scale_that_covers_the_canvas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hdvl.tilers import pixels

    seen = []
    monkeypatch.setattr(
        pixels,
        "_assemble",
        lambda cut, content, whole, out: Tiles(torch.empty(0, 3, 1, 1).byte(), cut),
    )
    decode = pixels.decode

    def spy(*args: Any, **options: Any) -> Any:
        raster = decode(*args, **options)
        seen.append(tuple(raster.pixels.shape[2:]))
        return raster

    monkeypatch.setattr(pixels, "decode", spy)
    for side in (127, 128, 255, 256, 511, 512, 513, 2000):
        Squash(tile_size=64, backend="fast")(jpeg(smooth(side, side)))
    halves = [127, 64, 128, 64, 128, 64, 65, 250]
    assert seen == [(side, side) for side in halves]


def test_fast_is_exact_where_nothing_can_be_scaled(noise: Any) -> None:
    data = jpeg(noise(100, 90))
    tiler = {"tile_size": 64}
    assert apart(Squash(backend="exact", **tiler)(data), Squash(backend="fast", **tiler)(data)) == 0


@pytest.mark.parametrize("tiler", [SlidingWindow(), AnyRes(backend="pillow"), Squash()])
def test_out_receives_the_pixels(tiler: Any, noise: Any) -> None:
    image = noise(300, 200)
    size = 3 * tiler.tile_size**2
    out = torch.full(((tiler.max_tiles + 1) * size,), 7, dtype=torch.uint8)
    tiles = tiler(image, out=out)
    assert tiles.pixels.data_ptr() == out.data_ptr()
    assert torch.equal(tiles.pixels, tiler(image).pixels)
    assert (out[tiles.plan.count * size :] == 7).all()


@pytest.mark.parametrize(
    "out", [torch.empty(10, dtype=torch.uint8), torch.empty(10**6), torch.empty(2, 10**6).byte().T]
)
def test_out_must_fit(out: torch.Tensor, noise: Any) -> None:
    with pytest.raises(ValueError, match="out must be a contiguous uint8 tensor of at least"):
        Squash(tile_size=64)(noise(9, 9), out=out)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_tiles_do_not_share_memory_with_buffers(backend: Any, noise: Any) -> None:
    """Buffers are reused, but results are not overwritten by the next image."""
    tiler = Squash(tile_size=64, backend=backend)
    first = tiler(jpeg(noise(64, 64)))
    kept = first.pixels.clone()
    tiler(jpeg(noise(64, 64)))
    tiler(noise(64, 64))
    assert torch.equal(first.pixels, kept)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_inference_mode_does_not_affect_training(backend: Any, noise: Any) -> None:
    """Validation and training alternate in one thread and share its buffers."""
    tiler = DynamicRatio(tile_size=32, backend=backend)
    images = [noise(123 + 40 * number, 77) for number in range(3)]
    with ThreadPoolExecutor(1) as fresh:  # with buffers that nothing has used
        found = fresh.submit(_in_and_out_of_inference, tiler, images).result()
    for inside, outside in found:
        assert torch.equal(inside, outside) and not outside.is_inference()


def _in_and_out_of_inference(tiler: Any, images: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with torch.inference_mode():
        inside = [tiler(image).pixels for image in images]
    outside = [tiler(image).pixels for image in reversed(images)]
    return list(zip(inside, reversed(outside), strict=True))


def test_threads_have_buffers_of_their_own(noise: Any) -> None:
    tiler = DynamicRatio(tile_size=32, backend="exact")
    images = [jpeg(noise(100 + 7 * index, 300 - 9 * index)) for index in range(24)]
    want = [tiler(image).pixels for image in images]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda image: tiler(image).pixels, images))
    assert all(torch.equal(one, other) for one, other in zip(want, got, strict=True))


def test_large_buffers_are_freed() -> None:
    from hdvl.tilers.decode import KEEP_BYTES, Buffers

    buffers = Buffers()
    small = buffers.take("a", 10, 10)
    assert buffers.take("a", 20, 5).data_ptr() == small.data_ptr()
    assert buffers.take("b", 10, 10).data_ptr() != small.data_ptr()
    buffers.take("a", KEEP_BYTES, 1)
    assert buffers.take("a", 10, 10).data_ptr() == small.data_ptr()


def test_an_image_stored_rotated_has_upright_boxes() -> None:
    data = jpeg(smooth(320, 160), orientation=6)
    for backend in ("pillow", "exact", "fast"):
        plan = SlidingWindow(tile_size=64, stride=64, backend=backend)(data).plan
        assert (plan.width, plan.height) == (160, 320)
        assert plan.canvas == (160, 320)
        assert math.isclose(max(box[3] for box in plan.boxes), 320)
