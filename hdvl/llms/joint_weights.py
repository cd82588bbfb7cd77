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

from hdvl.llms.huge_pages import ALIGNED, HugePages

COPIES = 2**30
"""The most bytes of copied weights of one model; the weights of larger models are read as they are."""


class JointLinear:
    """Linear layers with the same input, whose outputs are concatenated.

    Args:
        layers: the layers, each with ``weight`` and ``bias``.
        pages: where the weights are copied to; ``None`` reads them as they are. The copies do not follow
            later changes of the layers.
        factors: numbers (i,) by which the inputs are multiplied, in the copies of the weights.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        pages: HugePages | None,
        *,
        factors: Float[Tensor, " i"] | None = None,
    ) -> None:
        self._layers = layers
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        if pages is None:
            return
        weights = [layer.weight.detach() for layer in layers]
        joint = weights[0] if len(weights) == 1 else torch.cat(weights)
        turned = joint.dtype == torch.float32
        joint = joint.t() if turned else joint
        kept = pages.zeros(joint.shape, joint).copy_(joint)
        self._weight = kept if turned else kept.t()
        if factors is not None:
            self._weight.mul_(factors.detach()[:, None])
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


def pages_for(layers: Sequence[Any], most: int = COPIES) -> HugePages | None:
    """Return memory for copies of the weights of ``layers``; ``None`` if they take over ``most`` bytes."""
    weights = [layer.weight for layer in layers]
    total: int = sum(one.numel() * one.element_size() for one in weights)
    return None if total > most else HugePages(total + ALIGNED * len(weights), weights[0].device)
