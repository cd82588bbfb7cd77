"""Saves checkpoints, and seeds each step so that a resumed run equals an uninterrupted one."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from hdvl.callbacks.trainer import training_data
from hdvl.files import flush, flush_folder, remove
from hdvl.processor import Batch
from hdvl.training.checkpoint_files import DirectCheckpointIO, remember
from hdvl.training.checkpoint_formats import write_sums
from hdvl.training.checkpointing import LAST, PREVIOUS, step_seed
from hdvl.training.module import VLMModule
from hdvl.training.stopping import StopSignals, ValidationStopped


class StepSeeds(pl.Callback):
    """Seeds random numbers (dropout, drop path) by the seed of the run, the step and the samples of a batch.

    The seed does not depend on the rank: a batch that is computed elsewhere gets the same random numbers.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed torch on all devices."""
        torch.manual_seed(step_seed(self.seed, trainer.global_step, batch.rows))


class Checkpoints(pl.Callback):
    """Saves every ``every_n_steps`` optimizer steps, at the end, and on Ctrl-C or SIGTERM.

    A checkpoint is written under a temporary name and renamed to ``last.ckpt`` when the metrics of its
    step are written, too. A run that is killed in between resumes from the previous checkpoint, and no
    row of its metrics is lost. The previous checkpoint is kept as ``previous.ckpt``. After the first
    signal the step is finished and saved, and the run stops (``interrupted`` is then true on every
    rank). A signal during a validation ends it after the present batch, and a resumed run continues
    with the next step.
    The second signal stops at once. The callback also counts the consumed samples on the data module.
    """

    interrupted: bool

    def __init__(self, *, folder: str, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.interrupted = self._written = False
        self._saved_step = self._seen_step = 0
        self.signals, self._files = StopSignals(), DirectCheckpointIO()

    def setup(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Install the signal handlers, and write files directly."""
        self.signals.listen()
        trainer.strategy.checkpoint_io = self._files

    def teardown(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Restore the signal handlers."""
        self.signals.release()

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Note the saved step, and install the signal handlers again, since Lightning replaced one."""
        self.signals.listen()
        self._saved_step = self._seen_step = trainer.global_step

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: VLMModule, checkpoint: dict[str, Any]
    ) -> None:
        """Convert the count of batches to the present number of ranks, which may differ."""
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts |= {"ready": batches, "started": batches, "processed": batches}
            counts["completed"] = (
                batches - 1
            )  # the last batch was not counted as completed when it was saved
        validated = checkpoint["loops"]["fit_loop"].get("epoch_loop.val_loop.batch_progress")
        if validated is not None:  # it may have been stopped in the middle
            validated["current"] |= dict.fromkeys(validated["current"], 0)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the samples; save at the end of an optimizer step if a save is due."""
        data, step = training_data(trainer), trainer.global_step
        data.consumed += data.per_batch * trainer.world_size
        if step == self._seen_step:  # gradients are partly accumulated
            return
        self._seen_step = step
        stop = self._signalled(trainer)
        if stop:
            self.interrupted = trainer.should_stop = True
        if stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.write(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """Rename the checkpoint: the metrics of its step are written by now."""
        self.put_in_place(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Rename the checkpoint: the metrics of its step are written by now."""
        self.put_in_place(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save and end the validation after a signal."""
        self._stop_validation(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Save and stop after a signal that came while answers were written."""
        self._stop_validation(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Save the last step, whatever ended the run."""
        if trainer.global_step != self._saved_step:
            self.write(trainer)
        self.put_in_place(trainer)

    def _signalled(self, trainer: pl.Trainer) -> bool:
        """Return whether any rank got a signal."""
        got = self.signals.number is not None
        return bool(trainer.strategy.reduce_boolean_decision(got, all=False))

    def _stop_validation(self, trainer: pl.Trainer) -> None:
        """Raise ValidationStopped after a signal, when the last step is saved."""
        if trainer.global_step == 0 or not self._signalled(trainer):
            return
        self.interrupted = True
        if trainer.global_step != self._saved_step:
            self.write(trainer)
        self.put_in_place(trainer)
        raise ValidationStopped

    def write(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint under its temporary name."""
        fresh = self.folder / f"{LAST}.part"
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove(fresh)
        try:
            trainer.save_checkpoint(fresh)  # on all ranks, because a strategy may gather shards
        except OSError:
            remove(fresh)  # free the disk space that it takes
            raise
        if fresh.is_dir():
            step, rank = trainer.global_step, trainer.global_rank
            write_sums(fresh, step=step, rank=rank, world=trainer.world_size)
            trainer.strategy.barrier()
        if trainer.is_global_zero and fresh.is_dir():
            flush_folder(fresh)
        if trainer.is_global_zero and fresh.is_file():
            remember(self.folder, self._files.written, (LAST, PREVIOUS))
        self._saved_step, self._written = trainer.global_step, True

    def put_in_place(self, trainer: pl.Trainer) -> None:
        """Rename the written checkpoint to ``last.ckpt``, and keep the previous one."""
        if not self._written:
            return
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        if trainer.is_global_zero:
            if last.exists():
                remove(previous)
                os.replace(last, previous)
            os.replace(self.folder / f"{LAST}.part", last)
            flush(self.folder)
        trainer.strategy.barrier()
        self._written = False
