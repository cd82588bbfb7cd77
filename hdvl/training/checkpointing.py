"""Checkpoints of a run. They are written atomically, and a resumed run continues bit for bit.

The state of a run consists of the weights, the optimizer, the step, and the position in the data, which is
counted over all ranks. Every random number follows from the seed, the step and the samples of a batch. A
run can therefore be resumed with any number of workers and ranks. The callback that writes checkpoints is
in :mod:`hdvl.callbacks.checkpointing`.
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
    """Return the newest intact checkpoint of ``folder``, or None if none was written yet.

    A damaged ``last.ckpt``, for instance after the disk was full, is skipped with a warning.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged.
    """
    damaged = []
    for name in (LAST, PREVIOUS):
        path = Path(folder) / name
        if not path.exists():
            continue
        if _is_whole(path):
            return path
        damaged.append(name)
        warnings.warn(f"{path} is not a complete checkpoint and is skipped", stacklevel=2)
    if damaged:
        raise ValueError(
            f"{folder} must hold a whole checkpoint, {' and '.join(damaged)} cannot be read; put back a "
            "copy of one, or start a new run in another run_dir"
        )
    return None


def step_seed(seed: int, step: int, rows: Sequence[int | None] = ()) -> int:
    """Return the seed of one batch. It is a hash, so that consecutive steps get unrelated seeds."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rows}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _is_whole(path: Path) -> bool:
    return is_whole_folder(path) if path.is_dir() else is_whole_file(path)
