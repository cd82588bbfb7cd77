"""Checkpoint files: written directly to their folder, with checksums that reveal damage.

``checksums.json`` next to the checkpoints holds the size and CRC-32 of each file. It is replaced before a
checkpoint is moved to its final name, so it always describes an intact file.
"""

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from hdvl.files import write_text

CHECKSUMS = "checksums.json"
Checksum = tuple[int, int]
"""Size in bytes and CRC-32 of a file."""

_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    UnicodeError,
    RuntimeError,  # raised by zipfile for an encrypted entry, and by torch for most damage
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
)
"""What a damaged zip file makes ``zipfile`` and ``torch.load`` raise."""


class SummedFile:
    """A new file that computes size and CRC-32 of what is written, and remembers why a write failed.

    When it is closed, its content is flushed to the disk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "wb")
        self.size = self.crc = 0
        self.error: OSError | None = None

    def __enter__(self) -> "SummedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        count = memoryview(data).nbytes
        self.size, self.crc = self.size + count, zlib.crc32(data, self.crc)
        return count

    def flush(self) -> None:
        """Pass buffered data to the operating system."""
        self._file.flush()


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to its path in one pass; its checksum is then in ``written``.

    Lightning's own implementation builds the file in memory, writes it to the folder for temporary
    files, and copies it from there if that is on another disk.
    """

    written: Checksum | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path`` and flush it to the disk."""
        if storage_options is not None:
            raise TypeError(f"storage_options must be None, got {storage_options!r}")
        summed = SummedFile(path)
        try:
            with summed:
                torch.save(checkpoint, summed)  # type: ignore[arg-type]
        except (OSError, RuntimeError) as error:
            reason = (
                summed.error or error
            )  # torch raises an error of its own after that of the file
            if isinstance(reason, OSError):
                raise OSError(reason.errno, reason.strerror, str(path)) from error
            raise
        self.written = (summed.size, summed.crc)


def remember(folder: Path, written: Checksum | None, names: Sequence[str]) -> None:
    """Add ``written`` to the checksums of ``folder``, and keep those of the files ``names``."""
    known = read_checksums(folder)
    if known is None:  # checkpoints of a version that wrote no checksums
        present = [folder / name for name in names]
        known = [checksum(path) for path in present if path.is_file() and is_whole_file(path)]
    kept = [*known[-len(names) :], *([written] if written else [])]
    entries = [{"size": size, "crc32": crc} for size, crc in kept]
    write_text(folder / CHECKSUMS, json.dumps({"checkpoints": entries}))


def read_checksums(folder: Path) -> list[Checksum] | None:
    """Return the checksums of ``folder``, or None if there are none that can be read."""
    try:
        entries = json.loads((folder / CHECKSUMS).read_text())["checkpoints"]
        return [(int(entry["size"]), int(entry["crc32"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_whole_file(path: Path) -> bool:
    """Return whether the checkpoint ``path`` is intact.

    Without a checksum, its zip directory and entries are checked and its structure is read.
    """
    known = read_checksums(path.parent)
    if known is not None:
        return path.stat().st_size in dict(known) and checksum(path) in known
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="meta", weights_only=True)
    except _DAMAGE:
        return False
    return True


def checksum(path: Path) -> Checksum:
    """Size and CRC-32 of a file."""
    size = value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, value = size + len(block), zlib.crc32(block, value)
    return size, value
