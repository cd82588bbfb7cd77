"""What several bridges are made of."""

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from hdvl.protocols import Grid


def perceptron(
    *,
    in_width: int,
    hidden: int,
    out_width: int,
    depth: int,
    activation: Callable[[], nn.Module] = nn.GELU,
) -> list[nn.Module]:
    """``depth`` linear layers with an activation between each two."""
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}; depth=1 is one linear layer")
    widths = [in_width, *[hidden] * (depth - 1), out_width]
    if min(widths) < 1:
        raise ValueError(f"widths of a bridge must be positive, got {widths}")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return layers[:-1]


def divided(grid: Grid, factor: int | Grid) -> Grid:
    """``grid`` in blocks of ``factor`` (rows, cols); one number for both."""
    rows, cols = grid
    down, across = (factor, factor) if isinstance(factor, int) else factor
    if rows % down or cols % across:
        raise ValueError(
            f"grid must be divisible by factor={down}x{across}, got {rows}x{cols} (rows x cols); "
            "choose a tile size or tiler stride that makes it so, or another bridge.factor"
        )
    return rows // down, cols // across
