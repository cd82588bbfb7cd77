"""Detection of the parameters that a model's output depends on, by autograd on the ``meta`` device."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from hdvl.encoders.twins import first_twins_only


class Skip(nn.Module):
    """Identity that replaces a head or norm on which the features do not depend."""

    def forward(self, values: Any, *_: Any, **__: Any) -> Any:
        """Return ``values``."""
        return values


def reach(
    encoder: nn.Module, tile: tuple[int, int, int]
) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
    """Return the output of ``encoder`` for a tile (c, h, w) on ``meta``, and the parameters it depends on.

    Parameters without gradients (fixed position embeddings) always count as reached. Of equal blocks only
    the first is run.
    """
    training = encoder.training
    encoder.eval()  # batch norms need more than one value per channel in training mode
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        first_twins_only(encoder) as passed,
    ):
        tensors = dict(chain(encoder.named_parameters(), encoder.named_buffers()))
        moved = {
            name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
            if not tensor.is_meta
        }
        pixels = torch.empty(1, *tile, device="meta")
        features: Tensor = functional_call(encoder, moved, (pixels,))
    encoder.train(training)
    found = _leaves(features)
    wanted = {name: tensor for name, tensor in (tensors | moved).items() if tensor.requires_grad}
    wanted |= {name: zero for name, (_, zero) in passed.items()}
    unreached = {name for name, tensor in wanted.items() if id(tensor) not in found}
    reached = frozenset(tensors) - unreached
    for name, (twin, _) in passed.items():
        if name not in unreached:
            inner = {key.removeprefix(twin) for key in reached if key.startswith(f"{twin}.")}
            reached |= {name + key for key in inner}
    return features.detach(), reached


def takes(encoder: nn.Module, image: tuple[int, int, int], shape: tuple[int, int]) -> bool:
    """Return whether ``encoder`` gives features of ``shape`` (n, d) for each of two images, on ``meta``."""
    training = encoder.training
    encoder.eval()
    tensors = chain(encoder.named_parameters(), encoder.named_buffers())
    moved = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    try:
        with torch.no_grad(), first_twins_only(encoder):
            features: Tensor = functional_call(
                encoder, moved, (torch.empty(2, *image, device="meta"),)
            )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        # Models raise any of these for a size that they do not support.
        return False
    finally:
        encoder.train(training)
    return tuple(features.shape) == (2, *shape)


def _leaves(output: Tensor) -> set[int]:
    """Return the ``id`` of each leaf tensor in the graph of ``output``, without computing gradients."""
    waiting, seen, leaves = [output.grad_fn], set[Any](), set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [source for source, _ in node.next_functions]
    return leaves


def drop_unreached(module: nn.Module, reached: Iterable[str]) -> None:
    """Replace submodules without a parameter in ``reached`` by :class:`Skip`, and delete other parameters.

    The remaining parameters all get gradients in training.
    """
    reached = frozenset(reached)
    for name, child in list(module.named_children()):
        inner = {f"{name}.{key}" for key, _ in child.named_parameters()}
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)  # iterated over, not called
        if inner and not inner & reached and not listed:
            setattr(module, name, Skip())
        elif not inner <= reached:
            drop_unreached(child, {key.removeprefix(f"{name}.") for key in inner & reached})
    for name in [key for key, _ in module.named_parameters(recurse=False)]:
        if name not in reached:
            module.register_parameter(name, None)
