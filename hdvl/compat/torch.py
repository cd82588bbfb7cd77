"""Temporary changes of torch, and imports of its private names.

``BatchNorm`` is the common base class of all batch norms, which has no public name in torch; a list of its
subclasses would miss new ones. ``TorchDispatchMode`` sees every operation on tensors. Torch
documents its use, but its module is private. The function of a backend of ``torch.compile`` can be
looked up by its name only through ``torch._dynamo``.

Fused attention has no hook, so that calls of it cannot be counted on ``meta`` otherwise. The limit of
recompilations of ``torch.compile`` is a global setting without an argument for a single model. The
variable-length kernel has other arguments in each release: torch 2.10 has ``is_causal`` and no ``scale``,
2.11 has ``window_size`` and ``scale``, and later releases also have ``enable_gqa``.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "BatchNorm",
    "TorchDispatchMode",
    "attention_replaced",
    "compile_backend",
    "has_variable_length_attention",
    "recompile_limit",
    "variable_length_attention",
]


@contextmanager
def attention_replaced(by: Callable[..., Any]) -> Iterator[None]:
    """Context in which ``by`` is called instead of ``scaled_dot_product_attention``, in all threads.

    The fast path of ``nn.MultiheadAttention``, which does not call this function, is disabled. Hooks of
    modules do not see the function, and a dispatch mode sees only the kernel that torch selected. On
    ``meta`` this is the slow kernel, whose attention scores would be counted as memory.
    """
    kernel, fast = functional.scaled_dot_product_attention, torch.backends.mha
    was_fast = fast.get_fastpath_enabled()
    functional.scaled_dot_product_attention = by
    fast.set_fastpath_enabled(False)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = kernel
        fast.set_fastpath_enabled(was_fast)


@contextmanager
def recompile_limit(least: int) -> Iterator[None]:
    """Context in which ``torch.compile`` compiles a function for at least ``least`` shapes.

    Beyond the default of 8 shapes it would run the function without compilation. A higher limit that is
    set already is kept.
    """
    before = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(before, least)
    try:
        yield
    finally:
        torch._dynamo.config.recompile_limit = before


def compile_backend(name: str) -> Callable[..., Any]:
    """The function that compiles graphs for the backend ``name`` of ``torch.compile``."""
    from torch._dynamo import lookup_backend

    backend: Callable[..., Any] = lookup_backend(name)
    return backend


@cache
def has_variable_length_attention() -> bool:
    """Whether this release of torch has a variable-length attention kernel (2.10 and later)."""
    return find_spec("torch.nn.attention.varlen") is not None


def variable_length_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float | None,
) -> Tensor:
    """Causal attention of packed documents by torch's variable-length kernel.

    Args:
        query: (s, heads, d), in half precision on a GPU.
        key: (s_k, groups, d). The number of heads is a multiple of ``groups``.
        value: (s_k, groups, d).
        ends: cumulative lengths of the documents' queries and keys, beginning with 0; int32.
        longest: the largest number of queries and of keys of a document.
        scale: factor of the scores; ``None`` for ``d ** -0.5``.

    Returns:
        (s, heads, d).
    """
    from torch.nn.attention.varlen import varlen_attn

    known = _arguments(varlen_attn)
    options: dict[str, Any] = (
        {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    )
    if "scale" in known:
        options["scale"] = scale
    elif scale is not None:  # the kernel multiplies by d ** -0.5
        query = query * (scale * query.shape[-1] ** 0.5)
    groups = query.shape[1] // key.shape[1]
    if groups != 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif groups != 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    attended = varlen_attn(query, key, value, *ends, *longest, **options)
    assert isinstance(attended, Tensor)
    return attended


@cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
