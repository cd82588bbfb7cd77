"""One native view of small images, tiles and a native thumbnail of large ones: LFM2-VL's tiling."""

import doctest
import random
from typing import Any

import pytest
import torch
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

import hdvl.tilers.native_tiles as module
from hdvl.protocols import Tiler
from hdvl.tilers import Native, NativeTiles
from hdvl.views import view_pixels

PUBLISHED = Lfm2VlImageProcessor()


def published_sizes(size: tuple[int, int], tiler: NativeTiles, factor: int) -> Any:
    """(rows, cols) and (width, height) of the whole view, as the published class computes them."""
    (width, height), patch = size, tiler.smallest_side
    most = {"max_image_tokens": tiler.max_patches, "encoder_patch_size": patch}
    most["downsample_factor"] = factor
    whole = PUBLISHED.smart_resize(height, width, min_image_tokens=tiler.min_patches, **most)
    large = PUBLISHED._is_image_too_large(
        height, width, max_pixels_tolerance=tiler.tolerance, **most
    )
    if not large or tiler.max_tiles == 1:
        return (1, 1), whole
    tiles = {"min_tiles": tiler.min_tiles, "max_tiles": tiler.max_tiles}
    cols, rows = PUBLISHED._get_grid_layout(height, width, tile_size=tiler.tile_size, **tiles)[:2]
    return (rows, cols), whole


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(module).attempted >= 3
    assert doctest.testmod(module).failed == 0


def test_is_a_tiler() -> None:
    assert isinstance(NativeTiles(), Tiler)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("patch", "factor", "options"),
    [
        (16, 2, {}),
        (16, 2, {"min_tiles": 1, "max_tiles": 1}),
        (16, 2, {"min_tiles": 12, "max_tiles": 12}),
        (16, 1, {"tile_size": 128, "min_patches": 1, "max_patches": 16, "tolerance": 1.0}),
        (7, 3, {"tile_size": 168, "min_patches": 9, "max_patches": 20, "tolerance": 3.0}),
        (2, 2, {"tile_size": 8, "min_patches": 4, "max_patches": 9, "max_tiles": 20}),
    ],
)
def test_views_are_those_of_the_published_code(
    patch: int, factor: int, options: dict[str, Any]
) -> None:
    tiler = NativeTiles(multiple_of=patch * factor, smallest_side=patch, **options)
    draw, compared = random.Random(0), 0
    room = max(tiler.max_patches, (tiler.tile_size // tiler.multiple_of) ** 2)
    for _ in range(1500):
        size = int(2.7 ** draw.uniform(0, 8)), int(2.7 ** draw.uniform(0, 8))
        grid, whole = published_sizes(size, tiler, factor)
        plan = tiler.plan(*size)
        if whole[0] * whole[1] > room * tiler.multiple_of**2:
            # More patches than the published mask of them has places: that code fails there.
            cells = plan.sizes[-1][0] * plan.sizes[-1][1] / tiler.multiple_of**2
            assert cells <= room
            continue
        compared += 1
        assert (plan.rows, plan.cols) == grid, size
        if grid != (1, 1):
            assert plan.sizes == ((tiler.tile_size,) * 2,) * (grid[0] * grid[1]) + (whole,), size
        elif not tiler._is_large(*size):
            assert plan.sizes == (whole,), size
    assert compared > 500


def test_grids_equally_near() -> None:
    """4 x 3 and 6 x 2 are as near to 2.1667; the order of the published set decides."""
    tiler = NativeTiles(min_tiles=12, max_tiles=12, max_patches=64)
    for size in ((1300, 600), (13 * 200, 1200), (500, 600 * 2)):
        assert published_sizes(size, tiler, 2)[0] == (
            tiler.plan(*size).rows,
            tiler.plan(*size).cols,
        )


def test_native_views_never_have_more_cells_than_allowed() -> None:
    tiler = Native(multiple_of=16, min_patches=64, max_patches=256)
    for size in ((1, 1), (1, 2000), (2000, 1), (1, 10_000), (10_000, 1), (3, 900), (9000, 9000)):
        width, height = tiler.plan(*size).sizes[0]
        assert width * height <= 256 * 16 * 16
        assert width % 16 == height % 16 == 0


def test_the_pixels_of_a_large_image(noise: Any) -> None:
    tiler = NativeTiles(tile_size=32, multiple_of=8, min_patches=4, max_patches=9, max_tiles=4)
    image = noise(97, 41)
    tiles = tiler(image)
    assert tiles.plan.sizes == ((32, 32), (32, 32), (32, 8))
    first, second, whole = view_pixels(tiles.pixels, tiles.plan)
    alone = Native(multiple_of=8, min_patches=4, max_patches=9)(image)
    assert torch.equal(whole, view_pixels(alone.pixels, alone.plan)[0])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"smallest_side": 0}, "smallest_side must be at least 1, got 0"),
        ({"tile_size": 500}, "tile_size must be a multiple of multiple_of=32, got 500"),
        ({"tolerance": 0.0}, "tolerance must be above 0, got 0.0"),
        ({"min_patches": 300}, r"min_patches must be in 1..max_patches=256, got 300"),
        ({"min_tiles": 11}, r"min_tiles must be in 1..max_tiles=10, got 11"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NativeTiles(**options)


def test_without_splitting_there_is_one_view() -> None:
    assert NativeTiles(split=False).plan(5000, 3000).count == 1
    assert NativeTiles(thumbnail=None).plan(1600, 900).sizes == ((512, 512),) * 8
