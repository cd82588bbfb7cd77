"""A lock that allows only one process at a time to train in a run folder."""

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdvl.training.ranks import is_rank_zero

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_held: set[int] = set()


def _close_in_child() -> None:
    """Close copies of the lock in forked data workers, because a lock is held while any copy is open."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the run ``folder`` on the first rank; other ranks do nothing.

    The folder is created if necessary. The system releases the lock when its process ends in any way,
    so a stale lock cannot occur.

    Raises:
        ValueError: another process holds the lock; the message names it.
    """
    if not is_rank_zero():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _acquire(path)
    _held.add(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)


def _acquire(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise ValueError(
                f"run folder {str(path.parent)!r} is in use by {holder or 'another process'}; wait for it "
                "to end, stop it, or choose another run_dir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(handle)
                raise
            warnings.warn(
                f"{path.parent} is on a file system without locks ({error.strerror}); make sure that "
                "no other process trains there",
                stacklevel=4,
            )
        if _is_at(handle, path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return handle
        os.close(handle)  # the previous holder removed the file in the meantime


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
