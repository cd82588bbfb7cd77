"""Saves checkpoints while a model trains, and seeds each step so that a resumed run equals a whole one."""

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
from hdvl.training.stopping import StopSignals


class StepSeeds(pl.Callback):
    """Random numbers (dropout, drop path) that follow from the seed, the step and the batch's samples.

    Not from the rank: the same batch computed elsewhere gives the same numbers.
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

    ``last.ckpt`` is written beside its place and moved there once the step's metrics are written too:
    a run that is killed in between goes on from the one before, and no row of theirs is lost. The one
    before stays as ``previous.ckpt``. The first signal lets the step end, saves and stops
    (``interrupted`` is then true, on every rank); the second stops at once. Counts the consumed
    samples on the data module.
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
        """Listen to the signals, and write files without Lightning's detour."""
        self.signals.listen()
        trainer.strategy.checkpoint_io = self._files

    def teardown(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Give the signals back."""
        self.signals.release()

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """A resumed run starts at a step that is saved. Lightning took SIGTERM a moment ago."""
        self.signals.listen()
        self._saved_step = self._seen_step = trainer.global_step

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: VLMModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the batches as this number of ranks does: a step may take others of them now."""
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts |= {"ready": batches, "started": batches, "processed": batches}
            counts["completed"] = batches - 1  # it was saved before the last one was called so

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the samples; save where an optimizer step ended and a save is due."""
        data, step = training_data(trainer), trainer.global_step
        data.consumed += data.per_batch * trainer.world_size
        if step == self._seen_step:  # between two steps gradients are half accumulated
            return
        self._seen_step = step
        stop = trainer.strategy.reduce_boolean_decision(self.signals.number is not None, all=False)
        if stop:
            self.interrupted = trainer.should_stop = True
        if stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.write(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """The metrics of the step before are written by now."""
        self.put_in_place(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """The metrics of the step before are written by now."""
        self.put_in_place(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Whatever ended the run, its last step is saved."""
        if trainer.global_step != self._saved_step:
            self.write(trainer)
        self.put_in_place(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint beside its place."""
        fresh = self.folder / f"{LAST}.part"
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove(fresh)
        try:
            trainer.save_checkpoint(fresh)  # on all ranks: a strategy may gather shards
        except OSError:
            remove(fresh)  # the room that it takes may be all that is missing
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
        """Make what was written ``last.ckpt``, and keep the one before."""
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
