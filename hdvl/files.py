"""Reads untrusted JSON and YAML files within limits, and writes files atomically.

When files are read, their size, depth and the time are limited, because they may be untrusted. Files are
written to a temporary name in the same folder, which is renamed when everything is on the disk.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import yaml

LARGEST_JSON = 256_000_000
LARGEST_YAML = 2_000_000
MOST_VALUES = 1_000_000
"""The largest number of values of a YAML file with expanded aliases: a few lines can expand to billions."""
DEEPEST = 64
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
"""Errors of a disk that is full, read-only or broken."""
_LONGEST_NUMBER = 400  # characters; reading a number takes time that grows with the square of them


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is too large, is not UTF-8 or JSON, or is nested too deeply.
    """
    text = _read_text(file, LARGEST_JSON)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep(file)) from None
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} must be JSON, it is not: {error}; copy it again"
        ) from error
    _check_depth(value, file)
    return value


def read_yaml(file: Path) -> Any:
    """Read a YAML file, which may contain only plain data.

    Raises:
        ValueError: the file is too large, is not UTF-8 or plain YAML, is nested too deeply, or expands to
            more than ``MOST_VALUES`` values by its aliases.
    """
    text = _read_text(file, LARGEST_YAML)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, file)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(_too_deep(file)) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, _Refused):
            raise
        raise ValueError(
            f"{str(file)!r} must be plain YAML, it is not: {error}; copy it again"
        ) from error
    finally:
        loader.dispose()


class _Refused(ValueError):
    """A ``ValueError`` whose message already names the file."""


def _read_text(file: Path, largest: int) -> str:
    if not file.is_file():
        raise ValueError(f"{str(file)!r} must be a file, it is not; copy the folder whole")
    size = file.stat().st_size
    if size > largest:
        raise ValueError(f"{str(file)!r} must have at most {largest} bytes, it has {size}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} must be UTF-8, it is not: {error}; copy it again"
        ) from error


def _too_deep(file: Path) -> str:
    return f"{str(file)!r} must be nested at most {DEEPEST} levels deep, it is nested deeper"


def _check_depth(value: Any, file: Path) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(_too_deep(file))


def _check_nodes(root: Any, file: Path) -> None:
    """Count the values of a YAML file with its aliases expanded, visiting each node once."""
    counts: dict[
        int, int | None
    ] = {}  # None: the node is being counted, so an alias is inside itself

    def count(node: Any, depth: int) -> int:
        if depth > DEEPEST:
            raise _Refused(_too_deep(file))
        known = counts.get(id(node), 0)
        if known is None:
            raise _Refused(f"{str(file)!r} must be plain YAML, an alias in it holds itself")
        if known:
            return known
        counts[id(node)] = None
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        total = 1 + sum(count(part, depth + 1) for part in inner)
        if total > MOST_VALUES:
            raise _Refused(
                f"{str(file)!r} must stand for at most {MOST_VALUES} values, its aliases stand for more"
            )
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > _LONGEST_NUMBER:
            raise _Refused(f"{str(file)!r} must hold shorter numbers, got {node.value[:20]}...")
        counts[id(node)] = total
        return total

    count(root, 0)


class WriteError(OSError):
    """A file could not be written; the message is one line with the file and the reason."""

    def __str__(self) -> str:
        return f"could not write {self.filename}: {self.strerror}"


@contextmanager
def atomic_write(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, which is renamed to ``path`` when the block ends.

    After an error the temporary file is removed, and a file that was at ``path`` before is unchanged.

    Args:
        path: the file; its folder is created if necessary.
        durable: whether to flush the file to the disk, so that it survives a power cut. This takes some
            milliseconds.

    Raises:
        WriteError: the disk is full or read-only, or the user may not write there.
        ValueError: ``path`` is a folder, a device or another special file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"cannot write a file to {str(path)!r}, it is no file; give another name")
    part = _beside(path, "part")
    with _writing(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if durable:
                flush(part)
            os.replace(part, path)
            if durable:
                flush(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, see :func:`atomic_write`."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to ``path``, which replaces ``path`` when the block ends.

    After an error the temporary folder is removed, and a folder that was at ``path`` before is unchanged.

    Raises:
        WriteError: the disk is full or read-only, or the user may not write there.
    """
    path = Path(path)
    part = _beside(path, "new")
    with _writing(path, part):
        part.mkdir(parents=True)
        try:
            yield part
            flush_folder(part)
            _replace_folder(part, path)
            flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems without it
            raise
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """Flush everything in a folder, see :func:`flush`."""
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            flush(Path(folder, name))


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hold(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; return False if another process holds it.

    The lock of a process that was killed is released with it. On Windows there is no lock.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.{what}")


@contextmanager
def _writing(path: Path, part: Path) -> Iterator[None]:
    """Make errors of writing ``part`` name ``path``; errors of other files are passed on unchanged."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        places = map(str, (part, *path.parents))
        own = isinstance(name, str) and (name in places or name.startswith(f"{part}{os.sep}"))
        if isinstance(error, WriteError) or not (own or (name is None and error.errno in NO_ROOM)):
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


def _replace_folder(written: Path, path: Path) -> None:
    """Rename ``written`` to ``path``; a previous ``path`` is removed only after that has succeeded."""
    if not os.path.lexists(path):
        written.rename(path)
        return
    old = _beside(path, "old")
    path.rename(old)
    try:
        written.rename(path)
    except OSError:
        old.rename(path)
        raise
    remove(old)
