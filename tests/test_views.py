"""Pixels of several sizes, joined and split."""

import pytest
import torch

from hdvl.geometry import TilePlan
from hdvl.views import blank_pixels, join_pixels, split_pixels, view_count, view_pixels


def numbered(plan: TilePlan, first: int) -> object:
    pixels = blank_pixels(plan)
    for number, view in enumerate(view_pixels(pixels, plan)):
        view[:] = first + number
    return pixels


def test_splitting_undoes_joining() -> None:
    square = TilePlan.of_grid(9, 9, (1, 2), tile_size=8)
    mixed = TilePlan(**{**vars(TilePlan.of_grid(9, 9, (1, 2), tile_size=8, thumbnail="first")),
                        "thumbnail_size": (16, 4)})  # fmt: skip
    oblong = TilePlan.of_view(9, 5, (16, 4))
    plans = [square, mixed, oblong, square]
    parts = [numbered(plan, 10 * number) for number, plan in enumerate(plans)]
    joined = join_pixels(parts)  # type: ignore[arg-type]
    assert isinstance(joined, tuple) and view_count(joined) == 2 + 3 + 1 + 2
    for number, (own, plan) in enumerate(zip(split_pixels(joined, plans), plans, strict=True)):
        levels = [int(view.unique()) for view in view_pixels(own, plan)]
        assert levels == [10 * number + index for index in range(plan.count)]
    only = join_pixels([parts[0], parts[3]])  # type: ignore[list-item]
    assert isinstance(only, torch.Tensor) and only.shape == (4, 3, 8, 8)


def test_other_views_than_planned_are_refused() -> None:
    plan = TilePlan.of_grid(9, 9, (1, 2), tile_size=8)
    match = r"plans ask for 2 tiles, pixels hold 1 \(2 of 8x8 px against 1 of 8x8 px\)"
    with pytest.raises(ValueError, match=match):
        split_pixels(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [plan])
    with pytest.raises(ValueError, match=r"2 of 8x8 px against 2 of 16x8 px"):
        split_pixels(torch.zeros(2, 3, 8, 16, dtype=torch.uint8), [plan])


def test_a_plan_survives_json_and_resized_copies() -> None:
    import dataclasses
    import json

    plan = TilePlan.of_view(100, 50, (16, 16), frame=(0, -25, 100, 75))
    plain = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert TilePlan.from_plain(plain) == plan
    assert plan.boxes == ((0.0, -25.0, 100.0, 75.0),)
    assert plan.for_copy(50, 25).boxes == ((0.0, -12.0, 50.0, 38.0),)
    assert plan.to_canvas(*plan.to_source(3, 5)) == (3, 5)
    with pytest.raises(ValueError, match=r"windows must number rows\*cols=1, got 0; give places"):
        dataclasses.replace(plan, windows=())
    with pytest.raises(ValueError, match="places must name each of the 1 windows, got 2"):
        dataclasses.replace(plan, places=((0, 0), (0, 1)))
    with pytest.raises(ValueError, match=r"increasing numbers in 0..0, got \(1,\)"):
        plan.subset([1])
