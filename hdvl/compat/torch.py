"""torch: its fused attention has no hook, and cannot be counted on ``meta`` otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


@contextmanager
def attention_replaced(by: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``by`` is called in place of ``scaled_dot_product_attention``, in every thread.

    The fast path of ``nn.MultiheadAttention``, which does not call it, is off. A module's hooks do not see
    the function, and a dispatch mode sees only the kernel that it chose: on ``meta`` that is the slow
    one, whose scores would be counted as stored.
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
