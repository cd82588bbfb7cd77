"""Change of Lightning: its precision plugins convert more than weights and activations."""

from contextlib import nullcontext

import lightning.pytorch as pl


def convert_weights_only(trainer: pl.Trainer) -> None:
    """Let the precision plugin of ``trainer`` convert only weights and activations.

    By default it also converts floating-point tensors of the batch. With ``bf16-true`` and the like it
    changes the default dtype of torch during each step, which would round all values that a forward pass
    counts or measures. Lightning has no option for either.
    """
    plugin = vars(trainer.precision_plugin)
    plugin["convert_input"] = lambda batch: batch
    if str(trainer.precision).endswith("true"):
        plugin["forward_context"] = nullcontext
