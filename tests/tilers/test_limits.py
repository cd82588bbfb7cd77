"""Every tiler supports a limit of tiles per call, or gives an error."""

from typing import Any

import pytest

from hdvl.config import build, compose
from hdvl.protocols import TilePlan, Tiler, Tiles
from hdvl.tilers import AnyRes, DynamicRatio
from hdvl.tilers.limits import with_max_tiles

SIZES = [(640, 480), (4032, 3024), (300, 3000), (50, 40)]


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("name", ["sliding_window", "xverse_v", "dynamic_ratio", "anyres"])
def test_more_tiles_are_used_where_they_are_allowed(name: str) -> None:
    tiler: Tiler = build(compose(f"tiler={name}", config_name="tile").tiler)
    counts = [
        len(with_max_tiles(tiler, limit).plan(4032, 3024).windows) for limit in (1, 4, 12, 40)
    ]
    assert counts == sorted(counts) and counts[0] < counts[1]


@pytest.mark.slow_beyond(4)
@pytest.mark.parametrize(
    "name",
    [
        *("sliding_window", "xverse_v", "dynamic_ratio", "anyres", "squash", "native"),
        *("native_tiles", "longest_edge", "llava_onevision", "smolvlm"),
    ],
)
@pytest.mark.parametrize("limit", [1, 4, 12, 40])
def test_no_plan_has_more_tiles(name: str, limit: int) -> None:
    tiler: Tiler = build(compose(f"tiler={name}", config_name="tile").tiler)
    limited = with_max_tiles(tiler, limit)
    for size in SIZES:
        plan = limited.plan(*size)
        assert len(plan.windows) <= limit and plan.count >= 1


def test_limits_that_cannot_be() -> None:
    for wrong in (0, -1, True):
        with pytest.raises(ValueError, match="max_tiles must be a whole number of at least 1"):
            with_max_tiles(DynamicRatio(), wrong)

    class Own:
        tile_size, max_tiles, exif = 8, 3, True

        def plan(self, width: int, height: int) -> TilePlan:
            return DynamicRatio().plan(width, height)

        def __call__(self, image: Any) -> Tiles:
            return DynamicRatio()(image)

    with pytest.raises(ValueError, match="needs a tiler with an argument of this name, Own has"):
        with_max_tiles(Own(), 2)
    assert with_max_tiles(AnyRes(), 1).plan(800, 400).canvas == (336, 336)
