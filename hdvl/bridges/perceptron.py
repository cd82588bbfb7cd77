"""Layers and helpers shared by several bridges."""

from collections.abc import Callable
from difflib import get_close_matches
from itertools import pairwise
from math import gcd
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from hdvl.protocols import Grid

Activation = str | Callable[[], nn.Module]
"""The name of an activation (``gelu``, ``silu``, ``relu`` or any name that transformers has), or a class."""

TORCH_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}


class Gated(nn.Module):
    """Gated linear unit: splits the last axis into values and gates, and returns
    ``activation(gates) * values``.

    With SiLU this is SwiGLU (Shazeer, arXiv 2002.05202). The values are the first half of the axis, as in
    the projector of Aya Vision.
    """

    activation: nn.Module

    def __init__(self, *, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, inputs: Float[Tensor, "*t two_d"]) -> Float[Tensor, "*t d"]:
        values, gates = inputs.chunk(2, dim=-1)
        output: Tensor = self.activation(gates) * values
        return output


def perceptron(
    *,
    in_width: int,
    hidden: int | None,
    out_width: int,
    depth: int,
    bias: bool = True,
    activation: Activation = nn.GELU,
    gated: bool = False,
) -> list[nn.Module]:
    """Build ``depth`` linear layers with activations between them.

    Args:
        in_width: width of the inputs.
        hidden: width between the layers; ``out_width`` if ``None``.
        out_width: width of the outputs.
        depth: number of linear layers.
        bias: whether the linear layers have a bias.
        activation: the activation between the layers.
        gated: whether to use :class:`Gated` activations. All layers except the last then have twice as
            many outputs: values and gates.

    Raises:
        ValueError: the depth is below 1 (below 2 if ``gated``), a width is not positive, or the
            activation is unknown.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}; depth=1 is one linear layer")
    if gated and depth < 2:
        raise ValueError(f"gated=true needs a depth of at least 2, got depth={depth}")
    widths = [in_width, *[out_width if hidden is None else hidden] * (depth - 1), out_width]
    if min(widths) < 1:
        raise ValueError(f"widths of a bridge must be positive, got {widths}")
    make = activation_class(activation)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers.append(nn.Linear(before, 2 * after if gated else after, bias=bias))
        layers.append(Gated(activation=make()) if gated else make())
    return [*layers, nn.Linear(widths[-2], out_width, bias=bias)]


def activation_class(activation: Activation) -> Callable[[], nn.Module]:
    """Return the class (or a function that builds a module) of an activation, which may be a name.

    Raises:
        ValueError: no activation has this name.
    """
    if not isinstance(activation, str):
        return activation
    if activation in TORCH_ACTIVATIONS:
        return TORCH_ACTIVATIONS[activation]
    from transformers.activations import ACT2FN

    if activation not in ACT2FN:
        known = sorted({*TORCH_ACTIVATIONS, *ACT2FN})
        close = ", ".join(get_close_matches(activation, known)) or ", ".join(known)
        raise ValueError(f"activation must be a known name, got {activation!r}; close: {close}")
    return lambda: cast(nn.Module, ACT2FN[activation])


def layer_norm(norm: bool, width: int, eps: float = 1e-5) -> nn.Module:
    """Return a LayerNorm if ``norm`` is true, otherwise an identity.

    Raises:
        ValueError: ``norm`` is not a bool.
    """
    if not isinstance(norm, bool):
        raise ValueError(f"norm must be true (a LayerNorm) or false, got {norm!r}")
    return nn.LayerNorm(width, eps=eps) if norm else nn.Identity()


def divided(grid: Grid, factor: int | Grid) -> Grid:
    """Divide a grid by ``factor``: (rows, cols), or one number for both.

    Raises:
        ValueError: the grid is not divisible by ``factor``.
    """
    rows, cols = grid
    down, across = (factor, factor) if isinstance(factor, int) else factor
    if rows % down or cols % across:
        shared = gcd(rows, cols)
        # Not the whole side, which would leave one token of a tile and fits no view of another size.
        fitting = [number for number in range(1, max(2, shared)) if shared % number == 0]
        nearest = min(fitting, key=lambda number: (number == 1, abs(number - down)))
        raise ValueError(
            f"grid must be divisible by factor={down}x{across}, got {rows}x{cols} (rows x cols); set "
            f"bridge.factor={nearest}, or choose another tile size or tiler stride"
        )
    return rows // down, cols // across
