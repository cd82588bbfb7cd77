"""Which parameters a model's output depends on, found on ``meta`` without computing anything."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call


class Skip(nn.Module):
    """Stands where a head or norm was that the features do not depend on."""

    def forward(self, values: Any, *_: Any, **__: Any) -> Any:
        """``values``, untouched."""
        return values


def reach(
    encoder: nn.Module, tile: tuple[int, int, int]
) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
    """The output of ``encoder`` on a ``meta`` tile (c, h, w), and the parameters it depends on.

    Parameters that need no gradient (fixed position tables) always count as reached.
    """
    training = encoder.training
    encoder.eval()  # batch statistics of one tile do not exist
    with torch.inference_mode(False), torch.enable_grad():
        tensors = {
            name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
            for name, tensor in chain(encoder.named_parameters(), encoder.named_buffers())
        }
        names = [name for name, tensor in tensors.items() if tensor.requires_grad]
        features: Tensor = functional_call(
            encoder, tensors, (torch.empty(1, *tile, device="meta"),)
        )
        gradients = torch.autograd.grad(
            features.sum(), [tensors[name] for name in names], allow_unused=True
        )
    encoder.train(training)
    unreached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    return features.detach(), frozenset(tensors) - unreached


def drop_unreached(module: nn.Module, reached: Iterable[str]) -> None:
    """Replace submodules that ``reached`` has nothing of by :class:`Skip`; drop lone parameters.

    So what is left is what trains: no parameter waits for a gradient that never comes.
    """
    reached = frozenset(reached)
    for name, child in list(module.named_children()):
        inner = {f"{name}.{key}" for key, _ in child.named_parameters()}
        if inner and not inner & reached:
            setattr(module, name, Skip())
        else:
            drop_unreached(child, {key.removeprefix(f"{name}.") for key in inner & reached})
    for name in [key for key, _ in module.named_parameters(recurse=False)]:
        if name not in reached:
            module.register_parameter(name, None)
