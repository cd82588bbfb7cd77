"""Detection of the parameters that a model's output depends on, by autograd on the ``meta`` device."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from hdvl.encoders.repeated_blocks import skip_repeated_blocks


class Removed(nn.Module):
    """Identity that replaces a head or norm on which the features do not depend."""

    def forward(self, values: Any, *_: Any, **__: Any) -> Any:
        """Return ``values``."""
        return values


def features_and_parameters(
    encoder: nn.Module, tile: tuple[int, int, int]
) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
    """Return the output of ``encoder`` for a tile (c, h, w) on ``meta``, and the parameters it depends on.

    Parameters without gradients (fixed position embeddings) always count as used. Of equal blocks only
    the first is run.
    """
    training = encoder.training
    encoder.eval()  # batch norms need more than one value per channel in training mode
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        skip_repeated_blocks(encoder) as skipped,
    ):
        tensors = dict(chain(encoder.named_parameters(), encoder.named_buffers()))
        on_meta = {
            name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
            if not tensor.is_meta
        }
        pixels = torch.empty(1, *tile, device="meta")
        features: Tensor = functional_call(encoder, on_meta, (pixels,))
    encoder.train(training)
    leaves = _leaves(features)
    candidates = {
        name: tensor for name, tensor in (tensors | on_meta).items() if tensor.requires_grad
    }
    candidates |= {name: added_zero for name, (_, added_zero) in skipped.items()}
    unused = {name for name, tensor in candidates.items() if id(tensor) not in leaves}
    used = frozenset(tensors) - unused
    for name, (first_name, _) in skipped.items():
        if name not in unused:
            names = {
                key.removeprefix(first_name) for key in used if key.startswith(f"{first_name}.")
            }
            used |= {name + key for key in names}
    return features.detach(), used


def supports(encoder: nn.Module, image: tuple[int, int, int], shape: tuple[int, int]) -> bool:
    """Return whether ``encoder`` gives features of ``shape`` (n, d) for each of two images, on ``meta``."""
    training = encoder.training
    encoder.eval()
    tensors = chain(encoder.named_parameters(), encoder.named_buffers())
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    try:
        with torch.no_grad(), skip_repeated_blocks(encoder):
            features: Tensor = functional_call(
                encoder, on_meta, (torch.empty(2, *image, device="meta"),)
            )
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        # Models raise any of these for a size that they do not support.
        return False
    finally:
        encoder.train(training)
    return tuple(features.shape) == (2, *shape)


def _leaves(output: Tensor) -> set[int]:
    """Return the ``id`` of each leaf tensor in the graph of ``output``, without computing gradients."""
    stack, visited, leaves = [output.grad_fn], set[Any](), set[int]()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        stack += [source for source, _ in node.next_functions]
    return leaves


def remove_unused(module: nn.Module, used: Iterable[str]) -> None:
    """Replace submodules without a parameter in ``used`` by :class:`Removed`, and delete other parameters.

    All remaining parameters receive gradients in training.
    """
    used = frozenset(used)
    for name, child in list(module.named_children()):
        names = {f"{name}.{key}" for key, _ in child.named_parameters()}
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)  # iterated over, not called
        if names and not names & used and not is_list:
            setattr(module, name, Removed())
        elif not names <= used:
            remove_unused(child, {key.removeprefix(f"{name}.") for key in names & used})
    for name in [key for key, _ in module.named_parameters(recurse=False)]:
        if name not in used:
            module.register_parameter(name, None)
