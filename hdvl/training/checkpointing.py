"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit.

A run's state is the weights, the optimizer, the step, and the count of samples consumed; every
random number of a step follows from the seed and that count (:class:`StepSeeds`).
"""

import hashlib
import os
import shutil
import signal
import warnings
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def find_checkpoint(folder: Path | str) -> Path | None:
    """The newest whole checkpoint of ``folder``; None without any.

    A torn ``last.ckpt`` (say the disk was full) is passed over with a warning.
    """
    for name in (LAST, PREVIOUS):
        path = Path(folder) / name
        if not path.exists():
            continue
        if _is_whole(path):
            return path
        warnings.warn(f"{path} is not a whole checkpoint and is passed over", stacklevel=2)
    return None


def step_seed(seed: int, consumed: int, rank: int) -> int:
    """The seed of one step on one rank: a hash, so that neighbours have nothing in common."""
    digest = hashlib.blake2b(f"{seed}/{consumed}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class StepSeeds(pl.Callback):
    """Random numbers (dropout, drop path) that follow from the seed and the place in the data."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch on all devices."""
        consumed = trainer.datamodule.consumed
        torch.manual_seed(step_seed(self.seed, consumed, trainer.global_rank))


class Checkpoints(pl.Callback):
    """Saves every ``every_n_steps`` optimizer steps, at the end, and on Ctrl-C.

    ``last.ckpt`` is written beside its place and moved there; the one before stays as
    ``previous.ckpt``. The first Ctrl-C lets the step end, saves and stops (``interrupted`` is then
    true); the second stops at once. Counts the consumed samples on the data module.
    """

    interrupted: bool

    def __init__(self, *, folder: str, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.interrupted = False
        self._saved_step = self._seen_step = 0
        self._old_handler: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Listen to Ctrl-C. Data workers inherit a handler that does nothing in them."""
        self._owner = os.getpid()
        self._old_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put the old Ctrl-C back."""
        signal.signal(signal.SIGINT, self._old_handler)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """A resumed run starts at a step that is saved."""
        self._saved_step = self._seen_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the samples; save where an optimizer step ended and a save is due."""
        data, step = trainer.datamodule, trainer.global_step
        data.consumed += data.batch_size * trainer.world_size
        if step == self._seen_step:  # between two steps gradients are half accumulated
            return
        self._seen_step = step
        stop = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        if stop:
            self.interrupted = trainer.should_stop = True
        if stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Whatever ended the run, its last step is saved."""
        if trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: Any) -> Path:
        """Write ``last.ckpt``, keep the one before, and return the path."""
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        fresh = self.folder / f"{LAST}.part"
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(fresh)
        trainer.save_checkpoint(fresh)  # on all ranks: a strategy may gather shards
        if trainer.is_global_zero:
            _flush(fresh)
            if last.exists():
                _remove(previous)
                os.replace(last, previous)
            os.replace(fresh, last)
        trainer.strategy.barrier()
        self._saved_step = trainer.global_step
        return last

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nCtrl-C: saving after this step; once more to stop at once", flush=True)


def _is_whole(path: Path) -> bool:
    """Sharded checkpoints are folders and count as whole once renamed into place."""
    if path.is_dir():
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """A rename must not overtake the bytes it names."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
