import pytest
import torch
from torch import nn

from hdvl.bridges.perceptron import activation_class, divided, perceptron


def test_depth_counts_linear_layers() -> None:
    layers = perceptron(in_width=3, hidden=5, out_width=7, depth=3)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.GELU] * 2 + [nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in layers[::2]] == [
        (3, 5),
        (5, 5),
        (5, 7),
    ]


def test_depth_one_is_linear() -> None:
    (layer,) = perceptron(in_width=3, hidden=5, out_width=7, depth=1)
    assert layer.weight.shape == (7, 3)


def test_activation_is_a_choice() -> None:
    layers = perceptron(in_width=3, hidden=5, out_width=7, depth=2, activation=nn.SiLU)
    values = torch.randn(4, 3)
    assert torch.equal(
        nn.Sequential(*layers)(values), layers[2](nn.functional.silu(layers[0](values)))
    )


def test_activations_by_name() -> None:
    values = torch.randn(100)
    for name, wanted in (
        ("gelu", nn.functional.gelu(values)),
        ("silu", nn.functional.silu(values)),
        ("relu", nn.functional.relu(values)),
        ("gelu_pytorch_tanh", nn.functional.gelu(values, approximate="tanh")),
        ("quick_gelu", values * torch.sigmoid(1.702 * values)),
    ):
        torch.testing.assert_close(activation_class(name)()(values), wanted)
    with pytest.raises(
        ValueError, match="activation must be a known name, got 'gellu'; close: gelu"
    ):
        activation_class("gellu")


def test_gated_layers_make_values_and_gates() -> None:
    layers = perceptron(
        in_width=3, hidden=None, out_width=7, depth=3, bias=False, activation="silu", gated=True
    )
    shapes = [tuple(p.shape) for layer in layers for p in layer.parameters()]
    assert shapes == [(14, 3), (14, 7), (7, 7)]
    inputs = torch.randn(5, 3)
    values, gates = layers[0](inputs).chunk(2, dim=-1)
    assert torch.equal(layers[1](layers[0](inputs)), values * nn.functional.silu(gates))
    with pytest.raises(ValueError, match="gated=true needs a depth of at least 2, got depth=1"):
        perceptron(in_width=3, hidden=None, out_width=7, depth=1, gated=True)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, got 0; depth=1 is one linear"):
        perceptron(in_width=3, hidden=5, out_width=7, depth=0)
    with pytest.raises(ValueError, match=r"widths of a bridge must be positive, got \[3, 0, 7\]"):
        perceptron(in_width=3, hidden=0, out_width=7, depth=2)


def test_divided() -> None:
    assert divided((4, 6), 2) == (2, 3)
    with pytest.raises(ValueError, match=r"divisible by factor=4x4, got 4x6 \(rows x cols\)"):
        divided((4, 6), 4)
