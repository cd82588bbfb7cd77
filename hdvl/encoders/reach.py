"""Which parameters a model's output depends on, found on ``meta`` without computing anything."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from hdvl.encoders.twins import first_twins_only


class Skip(nn.Module):
    """Stands where a head or norm was that the features do not depend on."""

    def forward(self, values: Any, *_: Any, **__: Any) -> Any:
        """``values``, untouched."""
        return values


def reach(
    encoder: nn.Module, tile: tuple[int, int, int]
) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
    """The output of ``encoder`` on a ``meta`` tile (c, h, w), and the parameters it depends on.

    Parameters that need no gradient (fixed position tables) always count as reached. Of blocks that
    are alike one is asked for all.
    """
    training = encoder.training
    encoder.eval()  # batch statistics of one tile do not exist
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
    """Whether ``encoder`` gives features of ``shape`` (n, d) for each of two images, on ``meta``."""
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
        # Libraries refuse a size in any of these ways, from their own checks to a sum of two shapes.
        return False
    finally:
        encoder.train(training)
    return tuple(features.shape) == (2, *shape)


def _leaves(output: Tensor) -> set[int]:
    """The ``id`` of each tensor that a gradient of ``output`` would arrive at, found without one."""
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
    """Replace submodules that ``reached`` has nothing of by :class:`Skip`; drop lone parameters.

    So what is left is what trains: no parameter waits for a gradient that never comes.
    """
    reached = frozenset(reached)
    for name, child in list(module.named_children()):
        inner = {f"{name}.{key}" for key, _ in child.named_parameters()}
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)  # walked through, never called
        if inner and not inner & reached and not listed:
            setattr(module, name, Skip())
        elif not inner <= reached:
            drop_unreached(child, {key.removeprefix(f"{name}.") for key in inner & reached})
    for name in [key for key, _ in module.named_parameters(recurse=False)]:
        if name not in reached:
            module.register_parameter(name, None)
