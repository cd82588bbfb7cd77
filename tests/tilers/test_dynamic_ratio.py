"""InternVL 1.5's dynamic tiling as published."""

import doctest
import random
from typing import Any

import pytest
import torch

import hdvl.tilers.dynamic_ratio as module
from hdvl.protocols import Tiler
from hdvl.tilers import DynamicRatio


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(module).attempted >= 3
    assert doctest.testmod(module).failed == 0


def test_is_a_tiler() -> None:
    assert isinstance(DynamicRatio(), Tiler)


@pytest.mark.slow_beyond(6, every=25)
def test_the_152_published_cases(internvl_case: dict[str, Any], make_image: Any) -> None:
    case = internvl_case
    tiler = DynamicRatio(max_tiles=case["max_tiles"])
    plan = tiler.plan(case["width"], case["height"])
    assert (plan.cols, plan.rows) == (case["cols"], case["rows"])
    assert plan.count == case["tiles_with_thumbnail"]
    if case["tile_mean_rgb"] is not None:
        tiles = tiler(make_image(case["width"], case["height"]))
        means = tiles.pixels.double().mean((2, 3))
        want = torch.tensor(case["tile_mean_rgb"], dtype=torch.float64)
        assert (means - want).abs().max() <= 5.001e-5  # the file has four decimals


@pytest.mark.parametrize(
    ("size", "most", "cols_rows"),
    [
        ((448, 672), 40, (2, 3)),
        ((100, 2000), 40, (1, 20)),
        ((633, 633), 12, (1, 1)),
        ((634, 634), 12, (2, 2)),
        ((1920, 1080), 40, (7, 4)),
        ((2048, 2048), 40, (6, 6)),
    ],
)
def test_worked_examples(size: tuple[int, int], most: int, cols_rows: tuple[int, int]) -> None:
    plan = DynamicRatio(max_tiles=most).plan(*size)
    assert (plan.cols, plan.rows) == cols_rows


def test_bounds_and_cover(sizes: Any) -> None:
    for index, (width, height) in enumerate(sizes):
        most = index % 20 + 1
        tiler = DynamicRatio(min_tiles=min(3, most), max_tiles=most, thumbnail="first")
        plan = tiler.plan(width, height)
        assert min(3, most) <= len(plan.windows) <= most
        local = plan.boxes[plan.window_slice]
        assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in local) == pytest.approx(
            width * height
        )
        assert plan.to_source(*map(float, plan.canvas)) == (width, height)


def test_one_tile_equals_internvl_1_2() -> None:
    plan = DynamicRatio(max_tiles=1).plan(4000, 100)
    assert plan.count == 1 and plan.boxes == ((0, 0, 4000, 100),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tiles": 0}, r"min_tiles must be in 1\.\.max_tiles=12, got 0"),
        ({"min_tiles": 13}, r"min_tiles must be in 1\.\.max_tiles=12, got 13"),
        ({"thumbnail": "none"}, "thumbnail must be"),
        ({"tile_size": 0}, "tile_size must be at least 1"),
    ],
)
def test_wrong_numbers(options: dict[str, Any], message: str, unchecked: Any) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(DynamicRatio, **options)


@pytest.mark.parametrize(
    ("least", "most", "side"), [(1, 12, 448), (1, 6, 28), (3, 9, 364), (2, 2, 5)]
)
def test_grids_are_those_of_transformers(least: int, most: int, side: int) -> None:
    """Ties, which equal fractions give exactly, are broken alike."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    tiler = DynamicRatio(tile_size=side, min_tiles=least, max_tiles=most)
    numbers = random.Random(0)
    sizes = [(numbers.randint(1, 2000), numbers.randint(1, 2000)) for _ in range(500)]
    sizes += [(a * k, b * k) for a in range(1, 8) for b in range(1, 8) for k in (1, 7, side)]
    sizes += [(width, height) for width in (1, 2, 3, 1999) for height in (1, 2, 3, 4000)]
    for width, height in sizes:
        plan = tiler.plan(width, height)
        wanted = get_optimal_tiled_canvas((height, width), (side, side), least, most)
        assert (plan.cols, plan.rows) == wanted, (width, height)
