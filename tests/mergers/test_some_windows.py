"""Mergers of whole images, where only some windows of a grid are there."""

from typing import Any

import pytest
import torch

from hdvl.mergers import OverlapBlend
from hdvl.protocols import Grid
from tests.mergers.test_overlap_blend import encode, same

GRID = (8, 8)


def halved(grid: Grid) -> Grid:
    return grid[0] // 2, grid[1] // 2


def tokens(merger: OverlapBlend, image: torch.Tensor, plan: Any) -> torch.Tensor:
    features = encode(image, plan, GRID) if plan.windows else torch.empty(0, 64, 16)
    thumbnail = [torch.full((1, 64, 16), -1.0)] if plan.thumbnail else []
    parts = [features, *thumbnail] if plan.thumbnail == "last" else [*thumbnail, features]
    return merger.arrange(merger.stitch(torch.cat(parts), plan), plan)


@pytest.mark.parametrize("thumbnail", ["first", "last", None])
@pytest.mark.parametrize("newline", [True, False])
def test_tokens_are_those_of_the_whole_image_where_windows_are(
    make_plan: Any, thumbnail: str | None, newline: bool
) -> None:
    """The encoder's features depend on their own patch alone, so that neighbours change nothing."""
    merger = OverlapBlend(grid=GRID, out_grid=same, width=16, newline=newline)
    whole_plan = make_plan((104, 80), stride=24, thumbnail=thumbnail)
    image = torch.rand(80, 104, 1)
    whole = tokens(merger, image, whole_plan).detach()
    places = merger.places(whole_plan)
    for chosen in ([0], [5], [1, 2, 7], [0, 11], list(range(11)), [3, 8]):
        plan = whole_plan.subset(chosen)
        some = tokens(merger, image, plan).detach()
        boxes = merger.places(plan)
        assert len(some) == merger.token_count(plan) == len(boxes)
        known = {box: token for box, token in zip(places, whole, strict=True) if box is not None}
        windows = plan.boxes[plan.window_slice]
        rest = set()
        for box, token in zip(boxes, some, strict=True):
            if box is None:
                assert merger.newline is not None and torch.equal(token, merger.newline)
            elif token[0] >= 0:  # not of the thumbnail
                torch.testing.assert_close(token, known[box], atol=1e-6, rtol=0)
                rest.add(box)
        shown = {box for box in known if any(_holds(window, box) for window in windows)}
        assert rest == {box for box in shown if known[box][0] >= 0}


def _holds(window: Any, box: Any) -> bool:
    slack = 1e-6
    return all(window[i] <= box[i] + slack and window[i + 2] >= box[i + 2] - slack for i in (0, 1))


def test_all_windows_give_the_weights_of_the_whole_grid(make_plan: Any) -> None:
    from hdvl.mergers.overlap_blend import _blend_table, _some_weights, _window_offsets

    plan = make_plan((104, 80), stride=24)
    down, across, canvas = _window_offsets(plan, GRID)
    places = tuple((y, x) for y in down for x in across)
    cells, weights = _some_weights(places, GRID, canvas)
    order, _, wanted = _blend_table(down, across, GRID, torch.device("cpu"))
    torch.testing.assert_close(weights[order].float(), wanted)
    assert (cells[order].diff() >= 0).all()


def test_the_thumbnail_alone(make_plan: Any) -> None:
    merger = OverlapBlend(grid=GRID, out_grid=same, width=16)
    plan = make_plan((104, 80), stride=24, thumbnail="first").subset([])
    assert merger.layout(plan) == (64,)
    assert (tokens(merger, torch.rand(80, 104, 1), plan) == -1).all()
    with pytest.raises(ValueError, match="needs windows that form a grid"):
        merger.layout(make_plan((104, 80), stride=24).subset([]))


def test_tokens_that_a_window_shows_in_part_are_left_out(make_plan: Any) -> None:
    merger = OverlapBlend(grid=GRID, out_grid=halved, width=16, newline=False)
    # A token has 8 pixels, and the second window begins at the 20th.
    plan = make_plan((96, 32), stride=20)
    assert [merger.token_count(plan.subset([n])) for n in (0, 1)] == [16, 12]


def test_resized_tokens_need_all_windows(make_plan: Any) -> None:
    merger = OverlapBlend(grid=GRID, out_grid=same, width=16, shrink_above=2)
    with pytest.raises(
        ValueError, match=r"shrink_above=2\), which needs all windows, got 1 of 3x4"
    ):
        merger.layout(make_plan((104, 80), stride=24).subset([0]))
