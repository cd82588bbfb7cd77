"""What Lightning's precisions must leave alone: batches, numbers made on the way, and angles of positions.

``bf16-true`` and its like turn the whole model into bf16. Buffers outside the state dict (rotary
frequencies) must not be: rounded to eight bits they turn far positions by whole radians, and the model
is read in float32 angles everywhere else.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import lightning.pytorch as pl
from torch import Tensor, nn


def leave_numbers(trainer: pl.Trainer) -> None:
    """Let the precision of ``trainer`` convert weights and activations, nothing else."""
    changes = vars(trainer.precision_plugin)
    # There is no floating-point number in a batch, and Lightning would not look into ours.
    changes["convert_input"] = lambda batch: batch
    if str(trainer.precision).endswith("true"):
        # Its default dtype would round whatever a forward pass counts or measures.
        changes["forward_context"] = nullcontext


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
