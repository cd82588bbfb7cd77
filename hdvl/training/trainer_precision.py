"""What Lightning's precisions must leave alone: batches, and numbers made on the way."""

from contextlib import nullcontext

import lightning.pytorch as pl


def leave_numbers(trainer: pl.Trainer) -> None:
    """Let the precision of ``trainer`` convert weights and activations, nothing else."""
    changes = vars(trainer.precision_plugin)
    # There is no floating-point number in a batch, and Lightning would not look into ours.
    changes["convert_input"] = lambda batch: batch
    if str(trainer.precision).endswith("true"):
        # Its default dtype would round whatever a forward pass counts or measures.
        changes["forward_context"] = nullcontext
