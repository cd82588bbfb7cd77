import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hdvl.bridges import PixelShuffleMLP, Resampler
from hdvl.mergers import OverlapBlend, Spatial
from hdvl.mergers.image import ImageMerger, unpadded_region
from hdvl.protocols import FeatureMap, Grid, Merger

BOTH = pytest.mark.parametrize("kind", [Spatial, OverlapBlend])


def same(grid: Grid) -> Grid:
    return grid


def test_content_off_centre_is_cut_side_by_side(make_plan: Any) -> None:
    plan = make_plan((64, 64), content=(0, 0, 64, 40))
    assert unpadded_region(plan, (8, 8)) == (0, 5, 0, 8)
    plan = make_plan((64, 64), content=(20, 30, 64, 62))
    assert unpadded_region(plan, (8, 8)) == (4, 8, 2, 8)  # 20 px are 2.5 tokens: rounded down


def test_no_padding_nothing_cut(make_plan: Any) -> None:
    assert unpadded_region(make_plan((64, 96)), (12, 8)) == (0, 12, 0, 8)


def test_content_thinner_than_a_token(make_plan: Any) -> None:
    top, bottom, left, right = unpadded_region(make_plan((64, 64), content=(31, 0, 32, 64)), (8, 8))
    assert (top, bottom) == (0, 8) and left <= right


@pytest.mark.slow_beyond(5)
@BOTH
@pytest.mark.parametrize("grid", [(4, 4), (8, 4)])
@pytest.mark.parametrize("positions", ["none", "sincos2d"])
@pytest.mark.parametrize("newline", [True, False])
def test_token_count_is_the_length(
    kind: type[ImageMerger],
    grid: Grid,
    positions: Any,
    newline: bool,
    random_plans: Any,
    run: Any,
) -> None:
    merger = kind(grid=grid, out_grid=same, width=3, newline=newline, positions=positions)
    assert isinstance(merger, Merger)
    for plan in random_plans(grid, 20, kind is OverlapBlend):
        run(merger, torch.randn(plan.count, grid[0] * grid[1], 3), plan)


@BOTH
def test_token_count_with_bridges(kind: type[ImageMerger], make_plan: Any) -> None:
    shuffle = PixelShuffleMLP(in_width=3, out_width=8, grid=(4, 4))
    resampler = Resampler(in_width=3, out_width=8, grid=(4, 4), num_queries=9)
    for bridge in (shuffle, resampler):
        merger = kind(grid=(4, 4), out_grid=bridge.grid_for, width=8, positions="sincos2d")
        for thumbnail in ("first", "last", None):
            plan = make_plan((96, 64), thumbnail=thumbnail, content=(0, 8, 96, 56))
            maps = merger.stitch(torch.randn(plan.count, 16, 3), plan)
            maps = [FeatureMap(bridge(m.values, m.grid), bridge.grid_for(m.grid)) for m in maps]
            assert len(merger.arrange(maps, plan)) == merger.token_count(plan)


@BOTH
def test_counts_without_weights_and_is_picklable(kind: type[ImageMerger], make_plan: Any) -> None:
    plan = make_plan((96, 64), thumbnail="first")
    merger = kind(grid=(4, 4), out_grid=same, width=8, positions="sincos2d")
    count = merger.token_count(plan)
    assert merger.to("meta").token_count(plan) == count
    assert pickle.loads(pickle.dumps(merger)).token_count(plan) == count
    with torch.device("meta"):
        merger = kind(grid=(4, 4), out_grid=same, width=8, positions="sincos2d")
    tokens = merger.arrange(merger.stitch(torch.empty(7, 16, 8, device="meta"), plan), plan)
    assert tokens.shape == (count, 8)


@BOTH
@pytest.mark.parametrize("thumbnail", ["first", "last", None])
def test_rows_end_in_a_newline(
    kind: type[ImageMerger], thumbnail: Any, make_plan: Any, run: Any
) -> None:
    merger = kind(grid=(2, 2), out_grid=same, width=3)
    plan = make_plan((64, 96), thumbnail=thumbnail)
    tokens = run(merger, torch.zeros(plan.count, 4, 3), plan)
    image = tokens[4:] if thumbnail == "first" else tokens[:30]
    assert torch.equal(image.view(6, 5, 3)[:, 4], merger.newline.expand(6, 3))
    assert image.view(6, 5, 3)[:, :4].abs().sum() == 0
    assert len(tokens) == 30 + 4 * (thumbnail is not None)


@BOTH
def test_positions_are_those_of_the_source(
    kind: type[ImageMerger], make_plan: Any, run: Any, unchecked: Callable[..., Any]
) -> None:
    """A token's position is the centre of the source rectangle under it, padding or not."""
    merger = kind(grid=(4, 4), out_grid=same, width=8, newline=False, positions="sincos2d")
    plan = make_plan((64, 64), thumbnail="last", content=(0, 16, 64, 48), source=(300, 150))
    tokens = run(merger, torch.zeros(5, 16, 8), plan)
    # Rows 2 to 5 of the canvas' 8 show the image; then the thumbnail, tile 4.
    places = [(y // 4 * 2 + x // 4, y % 4, x % 4) for y in range(2, 6) for x in range(8)]
    places += [(4, y, x) for y in range(4) for x in range(4)]
    for token, (tile, row, col) in zip(tokens, places, strict=True):
        with unchecked():
            x0, y0, x1, y1 = plan.token_box(tile, row, col, (4, 4))
        x, y = torch.tensor([(x0 + x1) / 600]), torch.tensor([(y0 + y1) / 300])
        expected = merger.positions(torch.zeros(1, 1, 8), x, y, thumbnail=tile == 4)
        assert torch.allclose(token, expected[0, 0], atol=1e-5)


@BOTH
def test_gradients_reach_everything(kind: type[ImageMerger], make_plan: Any, run: Any) -> None:
    merger = kind(grid=(4, 4), out_grid=same, width=8, positions="sincos2d")
    plan = make_plan((64, 64), thumbnail="first")
    features = torch.randn(5, 16, 8, requires_grad=True)
    run(merger, features, plan).square().sum().backward()
    assert features.grad is not None and features.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in merger.parameters())


@BOTH
def test_keeps_the_dtype_of_the_features(kind: type[ImageMerger], make_plan: Any, run: Any) -> None:
    merger = kind(grid=(4, 4), out_grid=same, width=8, positions="sincos2d")
    plan = make_plan((64, 64), thumbnail="first")
    for dtype in (torch.bfloat16, torch.float64):
        assert run(merger, torch.randn(5, 16, 8, dtype=dtype), plan).dtype == dtype


@BOTH
def test_refusals(kind: type[ImageMerger], make_plan: Any, unchecked: Callable[..., Any]) -> None:
    with (
        unchecked(),
        pytest.raises(ValueError, match="positions must be none or sincos2d, got 'x'"),
    ):
        kind(grid=(4, 4), out_grid=same, width=8, positions="x")
    merger = kind(grid=(4, 4), out_grid=same, width=8)
    with pytest.raises(ValueError, match="features must hold the plan's 4 tiles, got 5"):
        merger.stitch(torch.zeros(5, 16, 8), make_plan((64, 64)))


def test_options_add_no_parameters_when_off() -> None:
    merger = Spatial(grid=(4, 4), out_grid=same, width=8, newline=False)
    assert not list(merger.parameters())
    assert isinstance(Spatial(grid=(4, 4), out_grid=same, width=8).newline, nn.Parameter)
