"""Lightning: its precisions convert more than weights and activations."""

from contextlib import nullcontext

import lightning.pytorch as pl


def convert_weights_only(trainer: pl.Trainer) -> None:
    """Let the precision of ``trainer`` convert weights and activations, and nothing else.

    It would also convert the floating-point numbers of a batch, of which there are none, and with
    ``bf16-true`` and the like it changes torch's default dtype for each step: whatever a forward pass
    counts or measures would be rounded to it. Lightning has no option for either.
    """
    plugin = vars(trainer.precision_plugin)
    plugin["convert_input"] = lambda batch: batch
    if str(trainer.precision).endswith("true"):
        plugin["forward_context"] = nullcontext
