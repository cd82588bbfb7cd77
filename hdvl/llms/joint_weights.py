"""Weights of linear layers as decoding reads them: layers of one input side by side, transposed in float32.

On a CPU a product of few rows in float32 takes up to 40 % less time with transposed weights, in bfloat16 up
to 40 % more; one product of several layers takes less than one of each. The copies take as many bytes as the
weights.

A product of 2 to 256 rows in float32 takes up to half of that time again with the weights in panels, and on
some processors (:func:`~hdvl.llms.small_products.mkl_is_slow`) that of a single row does, too. A panel is the
weights of :data:`PANEL` outputs, one input after the other in memory, and the product with each panel is one
of a batch of small products. MKL copies larger matrices into an order of its own before it multiplies
them, at each call. Panels take as many bytes again, from their first use on. Layers whose outputs do not fill
the last panel have none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.llms.huge_pages import ALIGNED, HugePages
from hdvl.llms.small_products import mkl_is_slow, products_side_by_side

COPIES = 2**30
"""The most bytes of copied weights of one model; the weights of larger models are read as they are."""


PANEL = 32
"""The outputs of a panel. Of 16, 32 and 64 this took the least time for 2 to 64 rows."""

PANEL_ROWS = 256
"""The most rows of a product with panels; more of them take as long with the weights side by side."""


class Copies:
    """Memory for copies of the weights of ``layers``, which is used from their first product on.

    Args:
        layers: linear layers.
        panels: whether there is memory for panels.
    """

    def __init__(self, layers: Sequence[Any], *, panels: bool) -> None:
        weights = [layer.weight for layer in layers]
        device = weights[0].device
        size = sum(one.numel() * one.element_size() + ALIGNED for one in weights)
        self.joint = HugePages(size, device)
        self.panels = HugePages(size, device) if panels else None


class JointLinear:
    """Linear layers with the same input, whose outputs are concatenated.

    Args:
        layers: the layers, each with ``weight`` and ``bias``.
        copies: where the weights are copied to; ``None`` reads them as they are. The copies do not follow
            later changes of the layers.
        factors: numbers (i,) by which the inputs are multiplied, in the copies of the weights.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        copies: Copies | None,
        *,
        factors: Float[Tensor, " i"] | None = None,
    ) -> None:
        self._layers = layers
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._panels: Tensor | None = None
        self._memory: HugePages | None = None
        if copies is None:
            return
        weights = [layer.weight.detach() for layer in layers]
        joint = weights[0] if len(weights) == 1 else torch.cat(weights)
        turned = joint.dtype == torch.float32
        joint = joint.t() if turned else joint
        kept = copies.joint.zeros(joint.shape, joint).copy_(joint)
        self._weight = kept if turned else kept.t()
        if factors is not None:
            self._weight.mul_(factors.detach()[:, None])
        if turned and not joint.shape[1] % PANEL:
            self._memory = copies.panels
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
        if self._memory is not None and _pays_by_panel(len(hidden)):
            joint = self._by_panel(hidden, self._memory)
            return joint if self._bias is None else joint.add_(self._bias)
        if self._bias is None:
            return hidden.mm(self._weight)
        return torch.addmm(self._bias, hidden, self._weight)

    def added(
        self, hidden: Float[Tensor, "n i"], residual: Float[Tensor, "n o"]
    ) -> Float[Tensor, "n o"]:
        """Return the sum of ``residual`` and the outputs."""
        if self._weight is None or self._bias is not None:
            return residual + self(hidden)
        if self._memory is not None and _pays_by_panel(len(hidden)):
            return self._by_panel(hidden, self._memory).add_(residual)
        return torch.addmm(residual, hidden, self._weight)

    def _by_panel(self, hidden: Tensor, memory: HugePages) -> Float[Tensor, "n o"]:
        if self._panels is None:
            assert self._weight is not None
            panels = self._weight.view(len(self._weight), -1, PANEL).transpose(0, 1)
            self._panels = memory.zeros(panels.shape, panels).copy_(panels)
        return products_side_by_side(hidden, self._panels)


def _pays_by_panel(rows: int) -> bool:
    return rows <= PANEL_ROWS and (rows > 1 or mkl_is_slow())


def copies_for(layers: Sequence[Any], most: int = COPIES) -> Copies | None:
    """Return memory for copies of the weights of ``layers``.

    Weights that take over ``most`` bytes are not copied (``None``); those over half of it are not copied
    into panels.
    """
    total: int = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    return None if total > most else Copies(layers, panels=2 * total <= most)
