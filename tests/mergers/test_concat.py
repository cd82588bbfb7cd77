from collections.abc import Callable
from typing import Any

import pytest
import torch

from hdvl.bridges import PixelShuffleMLP
from hdvl.mergers import Concat
from hdvl.protocols import FeatureMap, Merger


def test_tile_after_tile(make_plan: Any, numbered: Any, run: Callable[..., Any]) -> None:
    merger = Concat(grid=(2, 4), out_grid=lambda grid: grid, width=3)
    assert isinstance(merger, Merger)
    plan = make_plan((64, 96), thumbnail="first")
    features = numbered(plan, (2, 4), 3)
    assert torch.equal(run(merger, features, plan), features.flatten(0, 1))
    assert not list(merger.parameters())


def test_count_with_any_bridge(random_plans: Any) -> None:
    bridge = PixelShuffleMLP(in_width=3, out_width=5, grid=(4, 8))
    merger = Concat(grid=(4, 8), out_grid=bridge.grid_for, width=5)
    for plan in random_plans((4, 8), 50, True):
        maps = merger.stitch(torch.zeros(plan.count, 32, 3), plan)
        maps = [FeatureMap(bridge(m.values, m.grid), bridge.grid_for(m.grid)) for m in maps]
        assert len(merger.arrange(maps, plan)) == merger.token_count(plan) == 8 * plan.count


def test_refuses_features_of_another_plan(make_plan: Any) -> None:
    merger = Concat(grid=(2, 2), out_grid=lambda grid: grid, width=3)
    with pytest.raises(ValueError, match="must hold the plan's 4 tiles, got 3"):
        merger.stitch(torch.zeros(3, 4, 3), make_plan((64, 64)))
