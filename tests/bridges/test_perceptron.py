import pytest
from torch import nn

from hdvl.bridges.perceptron import divided, perceptron


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
    assert isinstance(layers[1], nn.SiLU)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, got 0; depth=1 is one linear"):
        perceptron(in_width=3, hidden=5, out_width=7, depth=0)
    with pytest.raises(ValueError, match=r"widths of a bridge must be positive, got \[3, 0, 7\]"):
        perceptron(in_width=3, hidden=0, out_width=7, depth=2)


def test_divided() -> None:
    assert divided((4, 6), 2) == (2, 3)
    with pytest.raises(ValueError, match=r"divisible by factor=4x4, got 4x6 \(rows x cols\)"):
        divided((4, 6), 4)
