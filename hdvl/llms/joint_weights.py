"""Weights of linear layers as decoding reads them: layers of one input side by side, transposed in float32.

On a CPU a product of few rows in float32 takes up to 40 % less time with transposed weights, in bfloat16 up
to 40 % more; one product of several layers takes less than one of each. The copies take as many bytes as the
weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COPIES = 2**30
"""The most bytes of copied weights of one model; the weights of larger models are read as they are."""


class JointLinear:
    """Linear layers with the same input, whose outputs are concatenated.

    Args:
        layers: the layers, each with ``weight`` and ``bias``.
        copied: whether to copy the weights. The copies do not follow later changes of the layers.
    """

    def __init__(self, layers: Sequence[Any], *, copied: bool) -> None:
        self._layers = layers
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        if not copied:
            return
        weights = [layer.weight.detach() for layer in layers]
        joint = (weights[0] if len(weights) == 1 else torch.cat(weights)).t()
        self._weight = joint.contiguous() if joint.dtype == torch.float32 else joint
        if any(layer.bias is not None for layer in layers):
            self._bias = torch.cat(
                [
                    layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
                    for layer in layers
                ]
            ).detach()

    def __call__(self, hidden: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """Return the outputs of all layers, side by side."""
        if self._weight is None:
            found = [
                torch.nn.functional.linear(hidden, layer.weight, layer.bias)
                for layer in self._layers
            ]
            return found[0] if len(found) == 1 else torch.cat(found, -1)
        if self._bias is None:
            return hidden.mm(self._weight)
        return torch.addmm(self._bias, hidden, self._weight)

    def added(
        self, hidden: Float[Tensor, "n i"], residual: Float[Tensor, "n o"]
    ) -> Float[Tensor, "n o"]:
        """Return the sum of ``residual`` and the outputs."""
        if self._weight is None or self._bias is not None:
            return residual + self(hidden)
        return torch.addmm(residual, hidden, self._weight)


def copies_fit(layers: Sequence[Any], most: int = COPIES) -> bool:
    """Whether copies of the weights of ``layers`` take at most ``most`` bytes."""
    total: int = sum(one.weight.numel() * one.weight.element_size() for one in layers)
    return total <= most
