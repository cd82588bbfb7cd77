"""Each visual token's rectangle is where the features that the token is made of are."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hdvl.mergers import Concat, OverlapBlend, Spatial
from hdvl.protocols import Grid, Merger, PlacedMerger, TilePlan

GRID = (4, 4)


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Concat, {}),
        (Spatial, {"newline": True}),
        (Spatial, {"newline": True, "single_newline": "image"}),
        (Spatial, {"newline": False, "shrink_above": 1}),
        (OverlapBlend, {"newline": False}),
    ],
)
def test_a_token_is_where_its_features_are(
    kind: Callable[..., PlacedMerger],
    options: dict[str, Any],
    random_plans: Callable[[Grid, int, bool], Iterator[TilePlan]],
    run: Callable[[Merger, Tensor, TilePlan], Tensor],
) -> None:
    """Features are the centres of their patches in the source, so tokens are the centres of their places."""
    merger = kind(grid=GRID, out_grid=lambda grid: grid, width=2, **options)
    assert isinstance(merger, PlacedMerger)
    for plan in random_plans(GRID, 12, kind is not Spatial):
        boxes = torch.tensor(
            [
                plan.token_box(tile, row, col, GRID)
                for tile in range(plan.count)
                for row in range(GRID[0])
                for col in range(GRID[1])
            ]
        ).view(plan.count, -1, 4)
        with torch.no_grad():
            tokens = run(merger, (boxes[..., :2] + boxes[..., 2:]) / 2, plan)
        places = merger.places(plan)
        assert len(places) == len(tokens)
        side = max(plan.width, plan.height)
        for token, place in zip(tokens, places, strict=True):
            if place is None:
                assert getattr(merger, "newline", None) is not None
                assert torch.equal(token, merger.newline)  # type: ignore[attr-defined]
                continue
            centre = torch.tensor([place[0] + place[2], place[1] + place[3]]) / 2
            torch.testing.assert_close(token, centre, atol=1e-3 * side, rtol=1e-4)
