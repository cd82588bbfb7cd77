from dataclasses import replace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from hdvl.mergers import OverlapBlend, Spatial
from hdvl.mergers.overlap_blend import _blend_table, _blend_weights
from hdvl.protocols import Grid, TilePlan


def same(grid: Grid) -> Grid:
    return grid


def encode(image: Tensor, plan: TilePlan, grid: Grid) -> Tensor:
    """The windows of an image, by an encoder whose features are the pixels under each patch."""
    size = plan.tile_size
    windows = torch.stack([image[y : y + size, x : x + size] for x, y in plan.windows])
    return patches(windows, size, grid)


def patches(windows: Tensor, size: int, grid: Grid) -> Tensor:
    y, x = size // grid[0], size // grid[1]
    return rearrange(windows, "t (r y) (c x) d -> t (r c) (y x d)", y=y, x=x)


@pytest.mark.parametrize("grid", [(8, 8), (4, 8)])
def test_blending_equals_encoding_the_whole_image(grid: Grid, random_plans: Any) -> None:
    """Exact in two dimensions, clamped last windows and any stride included."""
    merger = OverlapBlend(grid=grid, out_grid=same, width=3)
    overlapping = 0
    for plan in random_plans(grid, 30, True):
        width, height = plan.canvas
        image = torch.rand(height, width, 1)
        features = encode(image, plan, grid)
        thumbnail = torch.rand(1, *features.shape[1:])
        if plan.thumbnail is not None:
            parts = [features, thumbnail] if plan.thumbnail == "last" else [thumbnail, features]
            features = torch.cat(parts)
        maps = merger.stitch(features, plan)
        blended = maps[plan.thumbnail == "first"]
        assert blended.grid == (height * grid[0] // 32, width * grid[1] // 32)
        y, x = 32 // grid[0], 32 // grid[1]
        whole = rearrange(image, "(r y) (c x) d -> (r c) (y x d)", y=y, x=x)
        assert torch.allclose(blended.values[0], whole, atol=1e-6)
        if plan.thumbnail is not None:
            assert torch.equal(maps[plan.thumbnail != "first"].values, thumbnail)
        assert len(maps) == 1 + (plan.thumbnail is not None)
        overlapping += plan.stride < 32
    assert overlapping > 15


def test_tiles_side_by_side_are_left_as_they_are(make_plan: Any, run: Any) -> None:
    blend = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    spatial = Spatial(grid=(4, 4), out_grid=same, width=3)
    spatial.load_state_dict(blend.state_dict())
    for thumbnail in ("first", "last", None):
        plan = make_plan((96, 64), thumbnail=thumbnail, content=(0, 10, 96, 54))
        features = torch.randn(plan.count, 16, 3)
        assert torch.equal(run(blend, features, plan), run(spatial, features, plan))


def test_one_window_is_the_plain_encoder(make_plan: Any) -> None:
    features = torch.randn(1, 16, 3)
    (whole,) = OverlapBlend(grid=(4, 4), out_grid=same, width=3).stitch(
        features, make_plan((32, 32))
    )
    assert torch.equal(whole.values, features)


def test_weights_fall_towards_inner_edges_only() -> None:
    first, last = _blend_weights((0, 6), 10)
    assert first.tolist() == pytest.approx([1] * 6 + [0.875, 0.625, 0.375, 0.125])
    assert last.tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875] + [1] * 6)


@pytest.mark.parametrize("starts", [(0,), (0, 8), (0, 3, 6, 9), (0, 5, 7), (0, 1, 2), (0, 7, 7)])
def test_weights_sum_to_one(starts: tuple[int, ...]) -> None:
    ramps = _blend_weights(starts, 8)
    total = torch.zeros(starts[-1] + 8, dtype=torch.float64)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + 8] += ramp
    assert torch.allclose(total, torch.ones_like(total))
    assert ramps.min() > 0 and ramps[0, 0] == 1 and ramps[-1, -1] > 0.4


def test_gradient_is_the_weight(make_plan: Any) -> None:
    merger = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    plan = make_plan((56, 48), stride=24, thumbnail="first")
    features = torch.randn(plan.count, 16, 3, requires_grad=True)
    image = merger.stitch(features, plan)[1]
    image.values.sum().backward()
    assert features.grad is not None and bool(features.grad.any())
    assert torch.isclose(features.grad[1:].sum(), torch.tensor(3.0 * 7 * 6))
    assert features.grad[0].abs().sum() == 0 and features.grad[1:].min() > 0
    double = features.detach()[:, :, :1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: merger.stitch(x, plan)[1].values, double, atol=1e-4)


def test_a_batch_equals_its_images(make_plan: Any, run: Any) -> None:
    """Images of different plans in one batch equal each image alone; tables are cached."""
    merger = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    plans = [make_plan((64, 40), stride=8), make_plan((32, 32)), make_plan((40, 64), stride=24)]
    features = [torch.randn(plan.count, 16, 3) for plan in plans]
    once = [run(merger, *pair) for pair in zip(features, plans, strict=True)]
    hits = _blend_table.cache_info().hits
    again = [run(merger, *pair) for pair in zip(features[::-1], plans[::-1], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(once, again[::-1], strict=True))
    run(merger, features[0], replace(plans[0], width=9, height=9))  # same windows, other image
    assert _blend_table.cache_info().hits == hits + 4


def test_trains_after_inference_mode(make_plan: Any) -> None:
    _blend_table.cache_clear()
    merger = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    plan = make_plan((56, 32), stride=24)
    with torch.inference_mode():
        merger.stitch(torch.randn(plan.count, 16, 3), plan)
    features = torch.randn(plan.count, 16, 3, requires_grad=True)
    merger.stitch(features, plan)[0].values.sum().backward()
    assert features.grad is not None and bool(features.grad.any())


def test_half_precision_is_summed_in_single(make_plan: Any) -> None:
    merger = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    plan = make_plan((56, 56), stride=8)
    features = torch.full((plan.count, 16, 3), 1.0, dtype=torch.bfloat16)
    assert torch.equal(merger.stitch(features, plan)[0].values, torch.ones(1, 49, 3).bfloat16())


def test_refusals(make_plan: Any) -> None:
    merger = OverlapBlend(grid=(4, 4), out_grid=same, width=3)
    with pytest.raises(
        ValueError, match=r"window offset must be a multiple of the patch, 32/4 pix"
    ):
        merger.token_count(make_plan((52, 32), stride=20))
    plan = make_plan((64, 32))
    with pytest.raises(ValueError, match=r"canvas width=72 without gaps, got offsets \(0, 32\)"):
        merger.token_count(replace(plan, canvas=(72, 32)))
    with pytest.raises(ValueError, match=r"canvas width=64 without gaps, got offsets \(8, 32\)"):
        merger.token_count(replace(plan, windows=((8, 0), (32, 0))))
    with pytest.raises(ValueError, match=r"canvas height=80 without gaps, got offsets \(0, 48\)"):
        merger.token_count(replace(make_plan((32, 64)), canvas=(32, 80), windows=((0, 0), (0, 48))))
    with pytest.raises(ValueError, match="windows must form rows and columns"):
        merger.token_count(
            replace(make_plan((64, 64)), windows=((0, 0), (32, 0), (0, 32), (8, 32)))
        )
