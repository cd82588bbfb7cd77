"""Weights in another precision, while the frequencies of rotary positions stay exact.

Rounded to the eight bits of bf16 they turn far positions by whole radians; transformers'
``from_pretrained`` keeps them in float32, a cast of the whole module does not. Other buffers are
cast: biases, masks and tables meet activations, and must have their type.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
_FREQUENCIES = "inv_freq"  # original_inv_freq, sliding_attention_inv_freq, ...


def converted(module: Module, *, dtype: torch.dtype | None = None, device: Any = None) -> Module:
    """``module`` itself, its weights in ``dtype`` and all of it on ``device``; None leaves either."""
    if device is not None:
        check_device(device)
    if device is None and dtype is None:
        return module
    kept = frequencies(module)
    module.to(device=device, dtype=dtype)
    put_back(module, kept)
    return module


def frequencies(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the rotary frequencies in ``module``, by the name that transformers gives them."""
    return {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2].endswith(_FREQUENCIES)
    }


def put_back(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give ``module`` back those of ``kept`` that have another dtype by now."""
    for name, value in kept.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        now = getattr(owner, leaf)
        if now.dtype != value.dtype:
            setattr(owner, leaf, value.to(now.device))


def check_device(name: Any) -> None:
    """ValueError if ``name`` is no device, or one that this machine does not have."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda, cuda:1 or mps, got {name}") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts.get(device.type, 1)
    if (device.index or 0) >= count:
        raise ValueError(f"device={name} must be there, this machine has {count} of {device.type}")
