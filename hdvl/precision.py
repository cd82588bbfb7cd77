"""Converts a module to another dtype, except for the frequencies of rotary positions.

Frequencies rounded to bfloat16 rotate distant positions by whole radians. ``from_pretrained`` of transformers
keeps them in float32, but a cast of the whole module does not. Other buffers are cast, because biases, masks
and tables are combined with activations and must have their dtype.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
_FREQUENCIES = "inv_freq"  # original_inv_freq, sliding_attention_inv_freq, ...


def converted(module: Module, *, dtype: torch.dtype | None = None, device: Any = None) -> Module:
    """Convert ``module`` in place to ``dtype`` and ``device`` and return it; None leaves it unchanged."""
    if device is not None:
        check_device(device)
    if device is None and dtype is None:
        return module
    kept = frequencies(module)
    module.to(device=device, dtype=dtype)
    put_back(module, kept)
    return module


def frequencies(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the rotary frequencies in ``module`` by name."""
    return {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2].endswith(_FREQUENCIES)
    }


def put_back(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Restore the buffers ``kept`` of ``module`` whose dtype was changed."""
    for name, value in kept.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        now = getattr(owner, leaf)
        if now.dtype != value.dtype:
            setattr(owner, leaf, value.to(now.device))


def check_device(name: Any) -> None:
    """Check that this machine has the device ``name``.

    Raises:
        ValueError: it is no device name, or there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda, cuda:1 or mps, got {name}") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts.get(device.type, 1)
    if (device.index or 0) >= count:
        raise ValueError(
            f"device={name} must exist, this machine has {count or 'no'} {device.type} device"
            f"{'s' * (count > 1)} that torch can use; choose another, such as device=cpu, or run hdvl doctor"
        )
