"""The rank of this process, known before there is a trainer."""

import os
from collections.abc import Iterable

RUN_DIR = "HDVL_RUN_DIR"
_LAUNCHERS = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def launched() -> bool:
    """Return whether the processes were started by a launcher such as torchrun or SLURM."""
    return any(name in os.environ for name in _LAUNCHERS)


def is_rank_zero() -> bool:
    """Return whether this process has rank 0 or is the only one; it writes the files of a run."""
    for name in _LAUNCHERS:
        if name in os.environ:
            return int(os.environ[name]) == 0
    # Started by Lightning: the first process of the first node starts the others of its node.
    return all(int(os.environ.get(name, 0)) == 0 for name in ("NODE_RANK", "LOCAL_RANK"))


def one_run_dir(own: str, given: Iterable[str]) -> str:
    """Return the run folder of all processes; ``own`` may contain the time at which this process started.

    The first process passes its folder to the processes that it starts. If another launcher started
    them, ``given`` (the keys on the command line) must contain ``run_dir``.

    Raises:
        ValueError: it does not.
    """
    if is_rank_zero():
        os.environ[RUN_DIR] = own
    elif RUN_DIR in os.environ:
        return os.environ[RUN_DIR]
    elif "run_dir" not in given:
        raise ValueError(
            "run_dir must be given where a launcher starts the processes, each would make up its "
            "own; add run_dir=FOLDER"
        )
    return own
