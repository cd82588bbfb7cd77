from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.bridges import Resampler
from hdvl.bridges.resampler import check_table, sincos_table


@pytest.mark.parametrize(
    "options", [{}, {"layers": 3, "heads": 2}, {"num_queries": 1, "project": False}]
)
def test_contract(check_bridge: Callable[..., Any], options: dict[str, Any]) -> None:
    bridge = check_bridge(partial(Resampler, **{"num_queries": 9, **options}))
    assert bridge.grid_for((100, 3)) == bridge.out_grid
    assert bridge.out_grid == ((1, 1) if "num_queries" in options else (3, 3))


def test_positions_of_columns_come_first() -> None:
    table = sincos_table(3, 8)
    frequencies = torch.tensor([1.0, 0.01])
    for row in range(3):
        for col in range(3):
            x, y = col * frequencies, row * frequencies
            expected = torch.cat((x.sin(), x.cos(), y.sin(), y.cos()))
            assert torch.allclose(table[3 * row + col], expected)


def published(bridge: Resampler, features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Qwen-VL's forward, sequence first, with a stock attention of its own."""
    width, heads = bridge.query.shape[1], bridge.attn.num_heads
    attention = nn.MultiheadAttention(width, heads)
    attention.load_state_dict(bridge.attn.state_dict())
    values = bridge.ln_kv(bridge.kv_proj(features)).transpose(0, 1)
    table = bridge.pos_embed.view(1, *bridge.out_grid, width).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(table, grid, mode="bicubic", align_corners=False)
    keys = values + resized.flatten(2).permute(2, 0, 1)
    queries = bridge.ln_q(bridge.query)[:, None].repeat(1, len(features), 1)
    tokens = attention(queries + bridge.pos_embed[:, None], keys, values)[0].transpose(0, 1)
    return bridge.ln_post(tokens) @ bridge.proj.weight.T


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (5, 3)])
def test_formula(grid: tuple[int, int]) -> None:
    bridge = Resampler(in_width=6, out_width=16, grid=grid, num_queries=16, heads=2)
    nn.init.normal_(bridge.ln_kv.bias)
    features = torch.randn(2, grid[0] * grid[1], 6)
    assert torch.allclose(bridge(features), published(bridge, features, grid), atol=1e-6)


def test_keys_are_those_of_attn_pool() -> None:
    bridge = Resampler(in_width=6, out_width=16, grid=(4, 4), num_queries=16)
    assert set(bridge.state_dict()) == {
        "query",
        "pos_embed",
        "kv_proj.weight",
        "ln_q.weight",
        "ln_q.bias",
        "ln_kv.weight",
        "ln_kv.bias",
        "attn.in_proj_weight",
        "attn.in_proj_bias",
        "attn.out_proj.weight",
        "attn.out_proj.bias",
        "ln_post.weight",
        "ln_post.bias",
        "proj.weight",
    }
    assert "pos_embed" not in dict(bridge.named_parameters())


def test_output_depends_on_the_position_of_a_patch() -> None:
    bridge = Resampler(in_width=6, out_width=16, grid=(4, 4), num_queries=16)
    features = torch.randn(1, 16, 6)
    assert not torch.allclose(bridge(features), bridge(features.flip(1)), atol=1e-4)


def test_one_head_per_128_channels() -> None:
    assert Resampler(in_width=6, out_width=512, grid=(2, 2)).attn.num_heads == 4


def test_half_precision() -> None:
    bridge = Resampler(in_width=6, out_width=16, grid=(4, 2), num_queries=4, layers=2)
    features = torch.randn(2, 8, 6)
    expected = bridge(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(bridge(features).float(), expected, atol=0.1)
    assert torch.allclose(bridge.bfloat16()(features.bfloat16()).float(), expected, atol=0.1)


def test_refusals() -> None:
    make = partial(Resampler, in_width=6, out_width=16, grid=(4, 4))
    with pytest.raises(ValueError, match="num_queries must be a square, got 60; use 49 or 64"):
        make(num_queries=60)
    with pytest.raises(ValueError, match="num_queries must be a square, got 0; use 1 or 1"):
        make(num_queries=0)
    with pytest.raises(ValueError, match="multiple of 4 and of heads=3, got 16"):
        make(heads=3)
    with pytest.raises(ValueError, match="multiple of 4 and of heads=1, got 18"):
        make(out_width=18)
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        make(layers=0)
    with pytest.raises(ValueError, match="features must fill the grid of 4x4 patches, got 15"):
        make()(torch.randn(1, 15, 6))


def test_stored_tables_are_checked() -> None:
    table = sincos_table(4, 32)
    assert check_table(table.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(check_table(table.half()), table.half())
    with pytest.warns(UserWarning, match="pos_embed was trained: up to 0.05 off its formula"):
        check_table(table + 0.05)
    y_first = torch.cat((table[:, 16:], table[:, :16]), dim=1)
    for other in (y_first, torch.randn(16, 32), table * float("nan")):
        with pytest.raises(ValueError, match="must be the sines and cosines of the positions"):
            check_table(other)
    with pytest.raises(ValueError, match=r"must be of a square of positions, got \(15, 32\)"):
        check_table(table[:15])
