"""Temporary changes of torch.

Fused attention has no hook, so that calls of it cannot be counted on ``meta`` otherwise. The limit of
recompilations of ``torch.compile`` is a global setting without an argument for a single model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


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
