"""Shortcut for models of many equal blocks, of which only the first is run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

SkippedBlocks = dict[str, tuple[str, Tensor]]
"""For each skipped block: the name of the equal block that was run, and a zero that was added to the input
of the skipped block. The output of the model depends on the skipped block if it depends on that zero."""


@contextmanager
def skip_repeated_blocks(model: nn.Module) -> Iterator[SkippedBlocks]:
    """Context in which only the first of several equal blocks is run; the others return their input.

    Blocks are equal if they have the same class, the same strides, and tensors of the same names and shapes.
    They are skipped only if they return one tensor of the shape of their first argument. The output of the
    model has the right shape, but other values. An operation on ``meta`` takes about a millisecond for
    tensors of any size, so that a transformer of 48 blocks takes the time of two blocks.
    """
    skipped: SkippedBlocks = {}
    replaced: list[nn.Module] = []
    try:
        for blocks in _repeated_blocks(model):
            (name, first), *others = blocks
            keeps_shape: list[bool] = []
            _replace(first, _record_shapes(first, keeps_shape), replaced)
            for other, block in others:
                _replace(block, _skip_block(block, other, name, keeps_shape, skipped), replaced)
        yield skipped
    finally:
        for block in replaced:
            del block.forward


def _repeated_blocks(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the equal blocks of each list of blocks of ``model``, except for lists inside of such blocks."""
    repeated: list[str] = []
    for name, blocks in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in repeated)
        if inside or not isinstance(blocks, nn.ModuleList | nn.Sequential):
            continue
        groups: dict[Any, list[tuple[str, nn.Module]]] = {}
        for key, block in blocks.named_children():
            groups.setdefault(_signature(block), []).append(
                (f"{name}.{key}" if name else key, block)
            )
        for equal in groups.values():
            if len(equal) > 1 and next(equal[0][1].parameters(), None) is not None:
                repeated += [first_name for first_name, _ in equal]
                yield equal


def _signature(block: nn.Module) -> Any:
    tensors = chain(block.named_parameters(), block.named_buffers())
    # Blocks with different strides are not equal, but their tensors have the same shapes.
    strides = tuple(str(getattr(module, "stride", None)) for module in block.modules())
    shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors)
    return type(block), shapes, strides


def _replace(block: Any, forward: Callable[..., Any], replaced: list[nn.Module]) -> None:
    if "forward" not in vars(block):
        block.forward = forward
        replaced.append(block)


def _record_shapes(block: nn.Module, keeps_shape: list[bool]) -> Callable[..., Any]:
    run = block.forward

    def forward(*args: Any, **options: Any) -> Any:
        found = run(*args, **options)
        given = args[0] if args else None
        keeps_shape.append(
            isinstance(given, Tensor)
            and isinstance(found, Tensor)
            and (found.shape, found.dtype) == (given.shape, given.dtype)
        )
        return found

    return forward


def _skip_block(
    block: nn.Module, name: str, first_name: str, keeps_shape: list[bool], skipped: SkippedBlocks
) -> Callable[..., Any]:
    run = block.forward

    def forward(*args: Any, **options: Any) -> Any:
        if not keeps_shape or not all(keeps_shape):
            return run(*args, **options)
        zero = torch.zeros((), dtype=args[0].dtype, device=args[0].device, requires_grad=True)
        _, zero = skipped.setdefault(name, (first_name, zero))
        return args[0] + zero

    return forward
