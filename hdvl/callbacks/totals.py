"""Counts what a run has processed, over all ranks and interruptions."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from hdvl.callbacks.trainer import logs_at
from hdvl.processor import Batch
from hdvl.training.module import VLMModule

COUNTED = ("samples", "tokens", "supervised_tokens", "tiles")


class Totals(pl.Callback):
    """Logs ``total/samples``, ``tokens``, ``supervised_tokens``, ``tiles`` and ``seconds`` of the stage.

    The totals are stored in checkpoints. ``seconds`` is wall-clock time, including validation and saving.
    """

    def __init__(self) -> None:
        self.counts: Tensor = torch.zeros(len(COUNTED), dtype=torch.int64)
        self.seconds = 0.0
        self._step, self._started = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Continue the clock from where the run was interrupted."""
        self._step, self._started = trainer.global_step, time.perf_counter() - self.seconds
        self.counts = self.counts.to(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batches of all ranks; log as often as the trainer, and at the last step."""
        numbers = {**pl_module.step_numbers, "samples": len(batch.rows)}
        own = [int(numbers[name]) for name in COUNTED]
        counted = torch.tensor(own, device=self.counts.device)
        self.counts = self.counts + trainer.strategy.reduce(counted, reduce_op="sum")
        self.seconds = time.perf_counter() - self._started
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        if logs_at(trainer, step) or step == trainer.max_steps:
            totals = dict(zip(COUNTED, map(float, self.counts.tolist()), strict=True))
            for logger in trainer.loggers:
                named = {f"total/{name}": n for name, n in totals.items()}
                logger.log_metrics({**named, "total/seconds": self.seconds}, step=step - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the totals as plain numbers."""
        return {"counts": self.counts.tolist(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the totals."""
        self.counts = torch.tensor(state_dict["counts"], dtype=torch.int64)
        self.seconds = state_dict["seconds"]
