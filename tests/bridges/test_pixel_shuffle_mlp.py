from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.bridges import PixelShuffleMLP


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factor": 1},
        {"factor": 4, "depth": 1},
        {"channel_order": "channel_major", "norm": False},
    ],
)
def test_contract(check_bridge: Callable[..., Any], options: dict[str, Any]) -> None:
    bridge = check_bridge(partial(PixelShuffleMLP, **options))
    factor = options.get("factor", 2)
    assert bridge.out_grid == (4 // factor, 8 // factor)


def published(features: Tensor, side: int, *, order: str) -> Tensor:
    """The recipe of the published model in words, step by step, for factor 2."""
    width = features.shape[-1]
    blocks = features.view(-1, side, side // 2, 2 * width)
    blocks = blocks.permute(0, 2, 1, 3).reshape(-1, side // 2, side // 2, 4 * width)
    if order == "v2":
        blocks = blocks.permute(0, 2, 1, 3)
    return blocks.reshape(len(features), -1, 4 * width)


@pytest.mark.parametrize("order", ["v1", "v2"])
def test_order_of_tokens_and_channels(order: str) -> None:
    bridge = PixelShuffleMLP(in_width=3, out_width=16, grid=(8, 8), order=order)
    features = torch.randn(2, 64, 3)
    assert torch.equal(bridge(features), bridge.mlp(published(features, 8, order=order)))


def test_block_is_read_row_by_row() -> None:
    bridge = PixelShuffleMLP(in_width=1, out_width=4, grid=(3, 6), factor=3)
    bridge.mlp = nn.Sequential(nn.Identity())
    tokens = bridge(torch.arange(18.0)[None, :, None])
    assert tokens[0].tolist() == [
        [0, 1, 2, 6, 7, 8, 12, 13, 14],
        [3, 4, 5, 9, 10, 11, 15, 16, 17],
    ]


def test_blocks_may_be_wider_than_high() -> None:
    bridge = PixelShuffleMLP(in_width=1, out_width=4, grid=(2, 4), factor=(1, 2))
    bridge.mlp = nn.Sequential(nn.Identity())
    assert bridge.out_grid == (2, 2)
    tokens = bridge(torch.arange(8.0)[None, :, None])
    assert tokens[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match=r"divisible by factor=1x2, got 3x5"):
        bridge.grid_for((3, 5))


def test_orders_are_each_others_transpose() -> None:
    v2 = PixelShuffleMLP(in_width=3, out_width=16, grid=(8, 8))
    v1 = PixelShuffleMLP(in_width=3, out_width=16, grid=(8, 8), order="v1")
    v1.load_state_dict(v2.state_dict())
    features = torch.randn(1, 64, 3)
    one, two = v1(features)[0], v2(features)[0]
    assert all(torch.equal(one[t], two[4 * (t % 4) + t // 4]) for t in range(16))


def test_keys_are_those_of_mlp1() -> None:
    bridge = PixelShuffleMLP(in_width=3, out_width=16, grid=(8, 8))
    shapes = {key: tuple(value.shape) for key, value in bridge.mlp.state_dict().items()}
    assert shapes == {
        "0.weight": (12,),
        "0.bias": (12,),
        "1.weight": (16, 12),
        "1.bias": (16,),
        "3.weight": (16, 16),
        "3.bias": (16,),
    }
    assert bridge.mlp[0].eps == 1e-5


def test_keys_keep_their_numbers_without_norm_and_bias() -> None:
    bridge = PixelShuffleMLP(in_width=3, out_width=16, grid=(8, 8), norm=False, bias=False)
    assert set(bridge.mlp.state_dict()) == {"1.weight", "3.weight"}


def test_channel_major_is_pixel_unshuffle() -> None:
    bridge = PixelShuffleMLP(in_width=3, out_width=4, grid=(4, 6), channel_order="channel_major")
    bridge.mlp = nn.Sequential(nn.Identity())
    features = torch.randn(2, 24, 3)
    maps = nn.PixelUnshuffle(2)(features.view(2, 4, 6, 3).permute(0, 3, 1, 2))
    assert torch.equal(bridge(features), maps.flatten(2).transpose(1, 2))


def test_refusals(unchecked: Callable[..., Any]) -> None:
    make = partial(PixelShuffleMLP, in_width=3, out_width=16)
    with pytest.raises(
        ValueError, match=r"divisible by factor=2x2, got 7x8 \(rows x cols\); set bridge.factor=1"
    ):
        make(grid=(7, 8))
    with pytest.raises(ValueError, match="divisible by factor=2x2, got 6x5"):
        make(grid=(8, 8))(torch.randn(1, 30, 3), grid=(6, 5))
    with pytest.raises(ValueError, match="order v1 is for square grids only, got 4x8"):
        make(grid=(4, 8), order="v1")
    with unchecked(), pytest.raises(ValueError, match="order must be v1 or v2, got 'v3'"):
        make(grid=(4, 8), order="v3")
    with (
        unchecked(),
        pytest.raises(ValueError, match="channel_order must be patch_major or channel_"),
    ):
        make(grid=(4, 8), channel_order="other")
    with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
        make(grid=(4, 8), factor=0)
