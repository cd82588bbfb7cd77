"""Weights in another precision, while buffers that no state dict holds (rotary frequencies) stay exact.

Rounded to the eight bits of bf16 such frequencies turn far positions by whole radians; transformers'
``from_pretrained`` keeps them in float32, a cast of the whole module does not.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def converted(module: Module, *, dtype: torch.dtype | None = None, device: Any = None) -> Module:
    """``module`` itself, its weights in ``dtype`` and all of it on ``device``; None leaves either."""
    if device is None and dtype is None:
        return module
    kept = unstored(module)
    module.to(device=device, dtype=dtype)
    put_back(module, kept)
    return module


def unstored(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the floating-point buffers that no state dict of ``module`` holds."""
    stored = module.state_dict().keys()
    return {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if name not in stored and buffer.is_floating_point()
    }


def put_back(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give ``module`` back those of ``kept`` that have another dtype by now."""
    for name, value in kept.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        now = getattr(owner, leaf)
        if now.dtype != value.dtype:
            setattr(owner, leaf, value.to(now.device))
