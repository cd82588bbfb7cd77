"""Builds a model without initialising its weights, which are read from files afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.overrides import TorchFunctionMode

from hdvl.checkpoints.shards import tie_groups

FILLS = {"normal_", "trunc_normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "zeros_", "zero_",
         "ones_", "constant_", "fill_"}  # fmt: skip
"""Names of the functions of ``torch.nn.init`` and of the methods of tensors that initialise a tensor."""


class _WithoutFills(TorchFunctionMode):
    """A mode in which tensors on ``meta`` are not initialised: they have no values, and it takes time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__name__", None) in FILLS:
            target = args[0] if args else options.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **options)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """A context in which modules are built with parameters on ``meta``; buffers are computed as usual.

    Buffers that are not in the state dict, such as rotary frequencies, are then correct without being
    stored, and random initialisation needs neither time nor memory. Call :func:`tie` on the result.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), _WithoutFills():
        yield


def tie(module: nn.Module) -> None:
    """Tie the weights of transformers' models in ``module`` again, which building on ``meta`` unties."""
    from transformers import PreTrainedModel

    for child in module.modules():
        if isinstance(child, PreTrainedModel):
            child.tie_weights()


def fill(module: nn.Module, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Put ``tensors`` (one for each group of tied tensors) into a module that was built on ``meta``.

    Values keep their stored dtype. Parameters keep their memory layout and ``requires_grad``, and tied
    tensors stay tied. The keys must have been checked.
    """
    own = module.state_dict(keep_vars=True)
    groups = tie_groups(own)
    state: dict[str, Any] = {}
    for name, value in tensors:
        filled = _with_strides_of(value, like=own[name])
        if isinstance(own[name], Parameter):
            filled = Parameter(filled, requires_grad=own[name].requires_grad)
        state.update(dict.fromkeys(groups[name], filled))
    module.load_state_dict(state, assign=True)


def _with_strides_of(value: Tensor, *, like: Tensor) -> Tensor:
    """``value`` with the strides of ``like``, so that channels-last weights stay channels-last."""
    if value.stride() == like.stride():
        return value
    return torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)


def untied(module: nn.Module, ties: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Groups of names that are tied in only one of ``module`` and ``ties``."""
    module_ties = {group for group in tie_groups(module).values() if len(group) > 1}
    expected_ties = {group for group in ties.values() if len(group) > 1}
    return sorted(" = ".join(group) for group in module_ties ^ expected_ties)
