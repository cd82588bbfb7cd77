from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hdvl.bridges import Pooling
from hdvl.bridges.pooling import ConvBlock


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factor": 4, "depth": 1},
        {"kind": "conv", "blocks": 2, "conv_width": 8},
        {"bias": False, "norm": True, "activation": "silu", "gated": True},
    ],
)
def test_contract(check_bridge: Callable[..., Any], options: dict[str, Any]) -> None:
    bridge = check_bridge(partial(Pooling, **options))
    factor = options.get("factor", 2)
    assert bridge.out_grid == (4 // factor, 8 // factor)


def test_average_of_blocks() -> None:
    bridge = Pooling(in_width=1, out_width=4, grid=(2, 4))
    bridge.mlp = nn.Sequential(nn.Identity())
    assert bridge(torch.arange(8.0)[None, :, None])[0, :, 0].tolist() == [2.5, 4.5]


def test_conv_has_blocks_on_both_sides() -> None:
    bridge = Pooling(in_width=6, out_width=16, grid=(4, 4), kind="conv", conv_width=8)
    kinds = [type(layer) for layer in bridge.pool]
    assert kinds == [ConvBlock] * 3 + [nn.AvgPool2d] + [ConvBlock] * 3


@pytest.mark.slow  # the import of timm is
def test_conv_block_equals_that_of_regnet() -> None:
    """The block of Honeybee is timm's RegNet bottleneck with depth-wise groups, SiLU, LayerNorm."""
    from timm.layers import LayerNorm2d
    from timm.models.regnet import Bottleneck

    theirs = Bottleneck(8, 12, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    ours = ConvBlock(in_width=8, out_width=12)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    order = ["conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn", "se.fc1", "se.fc2"]
    order += ["conv3.conv", "conv3.bn", "downsample.conv", "downsample.bn"]
    state = theirs.state_dict()
    values = [state[key] for name in order for key in state if key.startswith(name)]
    assert len(values) == len(state)
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.randn(2, 8, 5, 4)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_conv_features_depend_on_neighbouring_blocks() -> None:
    bridge = Pooling(in_width=6, out_width=16, grid=(4, 4), kind="conv", conv_width=8)
    features = torch.randn(1, 16, 6, requires_grad=True)
    bridge(features)[0, 0].sum().backward()
    assert features.grad is not None and features.grad[0, -1].abs().sum() > 0


def test_refusals(unchecked: Callable[..., Any]) -> None:
    make = partial(Pooling, in_width=6, out_width=16, grid=(4, 4))
    with unchecked(), pytest.raises(ValueError, match="kind must be average or conv, got 'max'"):
        make(kind="max")
    with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
        make(factor=0)
    with pytest.raises(ValueError, match="divisible by factor=3x3, got 4x4"):
        make(factor=3)
    with pytest.raises(ValueError, match="divisible by factor=2x2, got 5x4"):
        make()(torch.randn(1, 20, 6), grid=(5, 4))
    with pytest.raises(
        ValueError, match="blocks and conv_width must be at least 1, got 0 and 1024"
    ):
        make(kind="conv", blocks=0)
