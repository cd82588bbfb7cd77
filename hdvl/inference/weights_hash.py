"""A number for each weight of a module that follows from all of its bits, quick enough for every question."""

from functools import lru_cache

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import pad

WORDS = 512
"""Words of 8 bytes that are summed up to one."""

ROWS = 2048
"""Rows of words whose products are held at a time: 8 MiB."""


def weights_hash(module: nn.Module) -> tuple[int, ...]:
    """A hash of each parameter and buffer of ``module``.

    torch counts writes to a tensor, but not those through ``.data`` or numpy. This reads every weight,
    about 2 GB/s on one core of a CPU: a small part of what it takes to encode one image.
    """
    sums = [tensor_hash(tensor.detach()) for tensor in (*module.parameters(), *module.buffers())]
    found = dict[torch.device, list[Tensor]]()
    for one in sums:
        found.setdefault(one.device, []).append(one)
    return tuple(int(one) for group in found.values() for one in torch.stack(group).tolist())


def tensor_hash(tensor: Shaped[Tensor, "*shape"]) -> Int[Tensor, ""]:
    """Sums of words times odd numbers that depend on their places, modulo 2^64.

    Such a sum forgets changes of the highest bit where their count is even: signs of every second
    float32. The plain sum of the values, which is added, does not.
    """
    flat, odd = tensor.contiguous().reshape(-1), _odd_numbers(tensor.device)
    words = _words(flat)
    while len(words) > 1:
        rows = _padded(words, WORDS).view(-1, WORDS)
        words = torch.cat([(part * odd).sum(1) for part in torch.split(rows, ROWS)])
    found = words.sum()  # of one word, or of none
    if flat.is_floating_point():
        precision = torch.float64 if flat.dtype == torch.float64 else torch.float32
        total = flat.sum(dtype=precision).double().view(torch.int64)
        found = found + odd[0] * (total ^ (total >> 31))
    return found


def _words(flat: Tensor) -> Int[Tensor, " n"]:
    parts = _padded(flat.view(torch.uint8), 8)
    if parts.storage_offset() % 8:  # words begin at multiples of 8
        parts = parts.clone()
    return parts.view(torch.int64)


def _padded(flat: Tensor, multiple: int) -> Tensor:
    rest = -len(flat) % multiple
    return pad(flat, (0, rest)) if rest else flat


@lru_cache(maxsize=4)
def _odd_numbers(device: torch.device) -> Int[Tensor, " n"]:
    drawn = torch.randint(-(2**62), 2**62, (WORDS,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)
