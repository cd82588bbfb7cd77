"""Prints what is trained before the first step, and checks that nothing else changed."""

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import STEP_OUTPUT

from hdvl.callbacks.terminal import print_line
from hdvl.processor import Batch
from hdvl.training.audit import check_moved, fingerprints, shorten, tuning_table
from hdvl.training.groups import group_table
from hdvl.training.module import VLMModule


class Audit(pl.Callback):
    """Prints what is trained before the first step, and checks by hashes that nothing else changed.

    The check takes place after the first and after the last step. Trainable parameters that never
    changed are listed at the end.
    """

    def __init__(self) -> None:
        self.before: dict[str, str] = {}
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Print the tables and compute the hashes."""
        self._first_step = trainer.global_step + 1
        self.before = fingerprints(pl_module.vlm)
        if trainer.is_global_zero:
            print(tuning_table(pl_module.vlm, pl_module.tuning))
            print(group_table(trainer.optimizers[0].param_groups), flush=True)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Check after the first step, so that a mistake is found early."""
        if trainer.global_step == self._first_step:
            self._first_step = -1
            check_moved(self.before, pl_module.vlm, pl_module.tuning)

    def on_train_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Check after the last step."""
        still = check_moved(self.before, pl_module.vlm, pl_module.tuning)
        if still and self._first_step == -1 and trainer.is_global_zero:
            print_line(f"trainable, but never moved: {shorten(still)}")
