"""Plans of every shape, and checks that hold for each merger."""

import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hdvl.protocols import FeatureMap, Grid, Merger, Thumbnail, TilePlan

PlanMaker = Callable[..., TilePlan]


def offsets(side: int, size: int, stride: int) -> list[int]:
    """Window starts along a side, the last one moved back to the edge."""
    count = -(-(side - size) // stride) + 1
    return [min(index * stride, side - size) for index in range(count)]


def plan_of(
    canvas: tuple[int, int],
    *,
    tile_size: int = 32,
    stride: int = 32,
    thumbnail: Thumbnail = None,
    content: tuple[int, int, int, int] = (0, 0, 0, 0),
    source: tuple[int, int] = (640, 480),
) -> TilePlan:
    xs, ys = (offsets(side, tile_size, stride) for side in canvas)
    return TilePlan(
        width=source[0],
        height=source[1],
        rows=len(ys),
        cols=len(xs),
        tile_size=tile_size,
        stride=stride,
        canvas=canvas,
        windows=tuple((x, y) for y in ys for x in xs),
        thumbnail=thumbnail,
        content=content,
    )


@pytest.fixture
def make_plan() -> PlanMaker:
    """A plan from its canvas and stride."""
    return plan_of


@pytest.fixture
def random_plans() -> Callable[[Grid, int, bool], Iterator[TilePlan]]:
    """Plans for 32-px tiles of ``grid`` patches: any canvas, padding and thumbnail."""

    def plans(grid: Grid, count: int, overlap: bool) -> Iterator[TilePlan]:
        dice = random.Random(0)
        cell = 32 // min(grid)
        for _ in range(count):
            stride = cell * dice.randint(1, 32 // cell) if overlap else 32
            step = cell if overlap else 32
            width, height = (step * dice.randint(32 // step, 160 // step) for _ in range(2))
            x0, x1 = sorted(dice.sample(range(width + 1), 2))
            y0, y1 = sorted(dice.sample(range(height + 1), 2))
            yield plan_of(
                (width, height),
                stride=stride,
                thumbnail=dice.choice(["first", "last", None]),
                content=dice.choice([(0, 0, 0, 0), (x0, y0, x1, y1), (0, y0, width, y1)]),
                source=(dice.randint(1, 3000), dice.randint(1, 3000)),
            )

    return plans


@pytest.fixture
def run() -> Callable[..., Tensor]:
    """Features through stitch, a bridge that keeps each patch as it is, and arrange."""

    def run_merger(merger: Merger, features: Tensor, plan: TilePlan) -> Tensor:
        maps = merger.stitch(features, plan)
        assert all(isinstance(part, FeatureMap) for part in maps)
        tokens = merger.arrange(maps, plan)
        assert len(tokens) == merger.token_count(plan)
        return tokens

    return run_merger


@pytest.fixture
def numbered() -> Callable[[TilePlan, Grid, int], Tensor]:
    """Features of the plan's tiles, each value different."""

    def features(plan: TilePlan, grid: Grid, width: int) -> Tensor:
        shape = plan.count, grid[0] * grid[1], width
        return torch.arange(float(shape[0] * shape[1] * width)).view(shape)

    return features
