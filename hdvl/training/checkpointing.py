"""Checkpoints of a run: they are written atomically, and a resumed run continues bit for bit.

A run's state is the weights, the optimizer, the step, and the place in the data, counted over all
ranks; every random number follows from the seed, the step and the samples of a batch. So a run goes
on anywhere, with any number of workers and of ranks. What writes them is in
:mod:`hdvl.callbacks.checkpointing`.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from hdvl.training.checkpoint_files import is_whole_file
from hdvl.training.checkpoint_formats import is_whole_folder
from hdvl.training.stopping import StopSignals

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


@runtime_checkable
class Saver(Protocol):
    """The callback that writes checkpoints to ``folder`` and stops the training on a signal."""

    folder: Path
    signals: StopSignals
    interrupted: bool


def find_checkpoint(folder: Path | str) -> Path | None:
    """The newest whole checkpoint of ``folder``; None if none was written yet.

    A damaged ``last.ckpt`` (say the disk was full) is passed over with a warning.

    Raises:
        ValueError: there are checkpoints, and none of them is whole.
    """
    damaged = []
    for name in (LAST, PREVIOUS):
        path = Path(folder) / name
        if not path.exists():
            continue
        if _is_whole(path):
            return path
        damaged.append(name)
        warnings.warn(f"{path} is not a whole checkpoint and is passed over", stacklevel=2)
    if damaged:
        raise ValueError(
            f"{folder} must hold a whole checkpoint, {' and '.join(damaged)} cannot be read; put back a "
            "copy of one, or start a new run in another run_dir"
        )
    return None


def step_seed(seed: int, step: int, rows: Sequence[int | None] = ()) -> int:
    """The seed of one batch. It is a hash, so that neighbouring steps get unrelated seeds."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rows}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _is_whole(path: Path) -> bool:
    return is_whole_folder(path) if path.is_dir() else is_whole_file(path)
