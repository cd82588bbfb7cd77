"""Windows at the image's own resolution, and XVERSE-V's rule as published."""

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hdvl.tilers.sliding_window as module
from hdvl.protocols import Tiler
from hdvl.tilers import SlidingWindow

XVERSE = {"grid": "xverse", "stride": 224, "max_tiles": 9, "exif": False, "background": None}
MEAN, STD = (
    torch.tensor((0.48145466, 0.4578275, 0.40821073), dtype=torch.float64),
    torch.tensor((0.26862954, 0.26130258, 0.27577711), dtype=torch.float64),
)


def published(**options: Any) -> SlidingWindow:
    return SlidingWindow(**{**XVERSE, "axes": "published", **options})


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(module).attempted >= 6
    assert doctest.testmod(module).failed == 0


def test_is_a_tiler_and_a_value() -> None:
    assert isinstance(SlidingWindow(), Tiler)
    assert SlidingWindow(background=[0, 0, 0]) == SlidingWindow(background=(0, 0, 0))
    assert hash(SlidingWindow()) == hash(SlidingWindow())


# --- XVERSE-V -----------------------------------------------------------------------------------


@pytest.mark.slow_beyond(5, every=15)
def test_the_76_published_cases(xverse_v_case: dict[str, Any], make_image: Any) -> None:
    case = xverse_v_case
    tiles = published()(make_image(case["width"], case["height"]))
    plan = tiles.plan
    assert (plan.rows, plan.cols) == (case["rows"], case["cols"])
    assert plan.count == case["tiles_with_thumbnail"] == len(tiles.pixels)
    means = (tiles.pixels.double().mean((2, 3)) / 255 - MEAN) / STD
    want = torch.tensor(case["tile_channel_means"], dtype=torch.float64)
    assert (means - want).abs().max() <= 5.001e-5  # the golden file has four decimals


def test_natural_axes_are_the_published_ones_of_the_turned_image(sizes: Any) -> None:
    natural = SlidingWindow(**{**XVERSE, "axes": "natural"})
    for width, height in sizes:
        there, here = published().plan(height, width), natural.plan(width, height)
        assert (there.rows, there.cols) == (here.rows, here.cols)
    assert (natural.plan(672, 448).rows, natural.plan(672, 448).cols) == (2, 3)


@pytest.mark.slow_beyond(4)
@pytest.mark.parametrize("most", range(1, 13))
def test_xverse_keeps_any_max_tiles(most: int, sizes: Any) -> None:
    for width, height in sizes:
        assert 1 <= len(published(max_tiles=most).plan(width, height).windows) <= most


def test_xverse_with_six_tiles_is_its_older_rule() -> None:
    """A variant in the published code: at most 6 tiles, else 6x1, 1x6, 3x2, 2x3 or 2x2."""
    tiler = published(max_tiles=6)
    found = {
        (rows, cols): (plan.rows, plan.cols)
        for rows in range(1, 12)
        for cols in range(1, 12)
        if (plan := tiler.plan(224 * rows, 224 * cols))
    }
    assert found[11, 1] == (6, 1) and found[1, 11] == (1, 6)
    assert found[5, 2] == (3, 2) and found[2, 5] == (2, 3)
    assert found[3, 3] == found[11, 11] == (2, 2)


# --- native -------------------------------------------------------------------------------------


def random_tiler(draw: np.random.Generator) -> SlidingWindow:
    step = int(draw.choice([1, 8, 14, 16, 32]))
    tile = step * int(draw.integers(1, 16))
    stride = step * int(draw.integers(1, tile // step + 1))
    return SlidingWindow(
        tile_size=tile,
        stride=stride,
        multiple_of=step,
        max_tiles=int(draw.integers(1, 80)),
        thumbnail=["first", "last", None][int(draw.integers(3))],
    )


def covered(plan: Any) -> bool:
    """Whether the boxes of the windows cover the image, shown on the borders they make."""
    boxes = np.array(plan.boxes[plan.window_slice])
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    middle_x, middle_y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    grid_x, grid_y = np.meshgrid(middle_x, middle_y)
    inside = (
        (boxes[:, 0, None, None] < grid_x)
        & (grid_x < boxes[:, 2, None, None])
        & (boxes[:, 1, None, None] < grid_y)
        & (grid_y < boxes[:, 3, None, None])
    )
    whole = xs[0] == ys[0] == 0 and np.allclose((xs[-1], ys[-1]), (plan.width, plan.height))
    return bool(whole and inside.any(0).all())


def test_every_pixel_is_covered_by_at_most_max_tiles(sizes: Any) -> None:
    draw = np.random.default_rng(1)
    for width, height in sizes:
        tiler = random_tiler(draw)
        plan = tiler.plan(width, height)
        assert len(plan.windows) <= tiler.max_tiles
        assert plan.thumbnail == (tiler.thumbnail if len(plan.windows) > 1 else None)
        assert covered(plan), (tiler, width, height)
        step, size = tiler.multiple_of, tiler.tile_size
        assert all(side % step == 0 and side >= size for side in plan.canvas)
        assert all(x % step == 0 and y % step == 0 for x, y in plan.windows)
        assert plan.windows[-1] == (plan.canvas[0] - size, plan.canvas[1] - size)
        for x, y in plan.windows[:-1]:
            right, below = x + size, y + size
            assert right <= plan.canvas[0] and below <= plan.canvas[1]


def test_the_canvas_is_the_image_rounded_up_unless_it_is_too_many_windows() -> None:
    tiler = SlidingWindow(tile_size=64, stride=48, multiple_of=16, max_tiles=100)
    assert tiler.plan(300, 200).canvas == (304, 208)
    assert tiler.plan(304, 208).canvas == (304, 208)
    assert tiler.plan(10, 90).canvas == (64, 96)


@pytest.mark.parametrize("max_tiles", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (900, 4100), (1, 20_000), (20_000, 1)])
def test_the_shrunk_canvas_is_the_largest_that_fits(
    max_tiles: int, width: int, height: int
) -> None:
    """A canvas one step larger would need more than max_tiles windows."""
    tiler = SlidingWindow(max_tiles=max_tiles)
    plan = tiler.plan(width, height)
    assert len(plan.windows) <= max_tiles
    long_side, short_side = max(plan.canvas), min(plan.canvas)
    longer, shorter = max(width, height), min(width, height)
    assert abs(short_side - max(224, long_side * shorter / longer)) <= 16  # half of multiple_of
    more = long_side + 32
    beside = max(224, round(more * shorter / longer / 32) * 32)
    grown = SlidingWindow(max_tiles=10_000).plan(
        *((more, beside) if width >= height else (beside, more))
    )
    assert len(grown.windows) > max_tiles


def test_pixels_at_native_resolution_are_the_images(make_image: Any) -> None:
    tiler = SlidingWindow(tile_size=64, stride=32, multiple_of=32, max_tiles=99, thumbnail=None)
    array = make_image(160, 128)
    for backend in ("pillow", "exact", "fast"):
        tiles = SlidingWindow(**{**vars(tiler), "backend": backend})(array)
        assert tiles.pixels.shape == (12, 3, 64, 64)
        for tile, (x0, y0, x1, y1) in zip(tiles.pixels, tiles.plan.boxes, strict=True):
            want = array[int(y0) : int(y1), int(x0) : int(x1)]
            assert np.array_equal(tile.permute(1, 2, 0).numpy(), want)


def test_one_window_is_the_whole_image_without_a_thumbnail(make_image: Any) -> None:
    tiles = SlidingWindow()(make_image(1, 1))
    assert tiles.pixels.shape == (1, 3, 224, 224)
    assert tiles.plan.thumbnail is None
    assert tiles.plan.boxes == ((0, 0, 1, 1),)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
@pytest.mark.parametrize("kind", [SlidingWindow, published])
def test_a_line_of_pixels(
    size: tuple[int, int], backend: Any, kind: Callable[..., SlidingWindow], make_image: Any
) -> None:
    tiles = kind(backend=backend)(make_image(*size))
    assert len(tiles.pixels) == tiles.plan.count > 2


@pytest.mark.parametrize(("position", "index"), [("first", 0), ("last", -1)])
def test_the_thumbnail_is_the_squashed_image(position: Any, index: int, noise: Any) -> None:
    image = noise(300, 250)
    tiles = SlidingWindow(thumbnail=position, backend="pillow")(image)
    assert tiles.plan.thumbnail_index == index % tiles.plan.count
    want = image.resize((224, 250), Image.Resampling.BICUBIC).resize((224, 224), 3)
    assert np.array_equal(tiles.pixels[index].permute(1, 2, 0).numpy(), np.asarray(want))
    assert tiles.plan.boxes[index] == (0, 0, 300, 250)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 0, "stride": 1}, "tile_size must be at least 1, got 0"),
        ({"stride": 0}, r"stride must be in 1\.\.tile_size=224, got 0; use stride=224"),
        ({"stride": 256}, r"stride must be in 1\.\.tile_size=224, got 256; use stride=224"),
        ({"stride": 200}, "stride must be a multiple of multiple_of=32 .* got 200; use 192"),
        ({"stride": 16}, "stride must be a multiple of multiple_of=32 .* got 16; use 32"),
        ({"tile_size": 336, "stride": 320}, "tile_size must be a multiple of multiple_of=32"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"max_tiles": 0}, "max_tiles must be at least 1, got 0"),
        ({"thumbnail": "middle"}, "thumbnail must be 'first', 'last' or null, got 'middle'"),
        ({"grid": "hex"}, r"grid must be one of \('native', 'xverse'\), got 'hex'"),
        ({"axes": "y"}, r"axes must be one of \('published', 'natural'\), got 'y'"),
        ({"grid": "xverse"}, "grid=xverse cuts tiles that do not overlap, got stride=192"),
        ({"background": [0, 0]}, r"background must be three numbers in 0\.\.255, or null"),
        ({"background": [0, 0, 256]}, r"background must be three numbers in 0\.\.255"),
        ({"resample": "nearest"}, "resample must be one of .* got 'nearest'"),
    ],
)
def test_wrong_numbers(options: dict[str, Any], message: str, unchecked: Any) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(SlidingWindow, **options)


def test_an_image_without_pixels() -> None:
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 0x5"):
        SlidingWindow().plan(0, 5)
