from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hdvl.bridges import MLP
from hdvl.config import build


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 1},
        {"depth": 3, "norm": True},
        {"depth": 3, "bias": False, "activation": "silu", "gated": True},
    ],
)
def test_contract(check_bridge: Callable[..., Any], options: dict[str, Any]) -> None:
    assert check_bridge(partial(MLP, **options)).out_grid == (4, 8)


def test_keys_are_those_of_llava_and_xverse() -> None:
    bridge = MLP(in_width=6, out_width=16, grid=(4, 4), norm=True)
    assert set(bridge.state_dict()) == {
        "norm.weight",
        "norm.bias",
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.2.weight",
        "mlp.2.bias",
    }
    assert bridge.norm.eps == 1e-5


def test_formula() -> None:
    bridge = MLP(in_width=6, out_width=16, grid=(2, 2), norm=True, hidden=5)
    features = torch.randn(2, 4, 6)
    first, _, second = bridge.mlp
    normed = nn.functional.layer_norm(features, (6,), eps=1e-5)
    expected = second(nn.functional.gelu(first(normed)))
    assert torch.equal(bridge(features), expected)


def test_activation_from_a_config() -> None:
    silu = {"_target_": "torch.nn.SiLU", "_partial_": True}
    node = {"_target_": "hdvl.bridges.MLP", "_partial_": True, "activation": silu}
    bridge = build(node)(in_width=6, out_width=16, grid=(2, 2))
    features = torch.randn(2, 4, 6)
    first, _, second = bridge.mlp
    assert torch.equal(bridge(features), second(nn.functional.silu(first(features))))


def test_refusals(unchecked: Callable[..., Any]) -> None:
    with (
        unchecked(),
        pytest.raises(ValueError, match=r"norm must be true \(a LayerNorm\) or false, got 'batch'"),
    ):
        MLP(in_width=6, out_width=16, grid=(2, 2), norm="batch")
