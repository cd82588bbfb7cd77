"""Memory in pages of 2 MiB, for large tensors that are read again and again.

A decoding step on a CPU reads all weights and all keys and values once. In pages of 4 KiB much of its time
is spent on looking up where each page lies, above all on a virtual machine. Linux gives larger pages to
memory for which a program asks for them, unless its administrator has forbidden them
(``/sys/kernel/mm/transparent_hugepage/enabled`` is ``never``).
"""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 2**22
"""Less memory than this, in bytes, is allocated as usual."""

ALIGNED = 64
"""Tensors begin at multiples of this number of bytes."""


class HugePages:
    """Zeros for several tensors that lie after each other in one piece of memory.

    Args:
        size: the bytes of all tensors together.
        device: where they will be; only main memory can have large pages.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._used = 0
        self._memory: Tensor | None = None
        if device.type == "cpu" and size >= LEAST and hasattr(mmap, "MADV_HUGEPAGE"):
            mapped = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapped.madvise(mmap.MADV_HUGEPAGE)
            self._memory = torch.frombuffer(mapped, dtype=torch.uint8)

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return zeros of the type and device of ``like``.

        What does not fit, or is on another device, is allocated as usual.
        """
        size = math.prod(shape) * like.element_size()
        start = -(-self._used // ALIGNED) * ALIGNED
        memory = self._memory
        if memory is None or like.device.type != "cpu" or start + size > len(memory):
            return like.new_zeros(shape)
        self._used = start + size
        return memory[start : self._used].view(like.dtype).view(shape)
