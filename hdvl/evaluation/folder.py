"""The folder with the files of benchmarks: which of them a task reads, and which it misses."""

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hdvl.evaluation.json_stream import json_pairs
from hdvl.evaluation.row import Row, entries, placed
from hdvl.evaluation.rows import jsonl_rows, read_plain, read_rows
from hdvl.evaluation.samples import ImageReference, StoredImage


@dataclass
class DataFolder:
    """Files below ``root``. Those that were read are noted in ``read``, for the report.

    Args:
        root: the folder that ``data_dir`` names.
        look: look for the files of images; otherwise images are names that cannot be read, which takes less
            time where answers are only scored.
    """

    root: Path
    look: bool = True
    read: list[Path] = field(default_factory=list)

    def path(self, *names: str) -> Path:
        """The first of ``names`` that is a file below the folder.

        Raises:
            FileNotFoundError: none is; every path that was looked for is named.
        """
        for name in names:
            found = self.root / name
            if found.is_file():
                if found not in self.read:
                    self.read.append(found)
                return found
        looked = " or ".join(str(self.root / name) for name in names)
        raise FileNotFoundError(f"there is no file {looked}; download it, or change data_dir")

    def has(self, name: str) -> bool:
        """Whether ``name`` is a file below the folder."""
        return (self.root / name).is_file()

    def matching(self, pattern: str) -> list[Path]:
        """The files that a pattern such as ``MMMU/*/validation-*.parquet`` matches, sorted."""
        found = sorted(self.root.glob(pattern))
        self.read += [path for path in found if path not in self.read]
        return found

    def rows(self, *names: str, under: str | None = None) -> Iterator[Row]:
        """Rows of the first of ``names`` that exists."""
        path = self.path(*names)
        return placed(read_rows(path, under), path)

    def lines(self, *names: str) -> Iterator[Row]:
        """Rows of the first of ``names`` that exists, which is read as JSON lines whatever its suffix."""
        path = self.path(*names)
        return placed(jsonl_rows(path), path)

    def entries(self, *names: str) -> Iterator[tuple[str, Row]]:
        """Keys and rows of the mapping in the first JSON file of ``names`` that exists, read as they come."""
        path = self.path(*names)
        return entries(json_pairs(path), path)

    def document(self, *names: str) -> Row:
        """The mapping in the first JSON file of ``names`` that exists.

        Raises:
            ValueError: the file holds no mapping.
        """
        path = self.path(*names)
        found = read_plain(path)
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{path} must hold a mapping, got {type(found).__name__}; download it again"
            )
        return Row(found, path, 0)

    def plain(self, *names: str) -> Any:
        """The value of the first JSON file of ``names`` that exists."""
        return read_plain(self.path(*names))

    def images(self, value: Any, *folders: str) -> tuple[ImageReference, ...]:
        """The images of a field: stored ones, or the names of files in one of ``folders``.

        Names are paths below the folder of the data. A file that is in none of ``folders`` is named in the
        first, so that asking the question fails with its path. An empty field is an image that cannot be
        read, so that asking fails too.

        Raises:
            ValueError: a name leaves the folder of the data.
        """
        if not self.look and isinstance(value, str) and value:
            _refuse_outside(value, folders)
            return (StoredImage(value, _unread),)
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        found = list[ImageReference]()
        for one in values:
            if isinstance(one, StoredImage | Path):
                found.append(one)
                continue
            if not one:
                found.append(StoredImage("", _absent))
                continue
            _refuse_outside(str(one), folders)
            if not self.look:
                found.append(StoredImage(str(one), _unread))
            else:
                places = [self.root / folder / str(one) for folder in folders]
                found.append(next((place for place in places if place.is_file()), places[0]))
        return tuple(found)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file that was read, by its path below the folder."""
        return {path.relative_to(self.root).as_posix(): sha256(path) for path in self.read}


def _refuse_outside(name: str, folders: Sequence[str]) -> None:
    """Raise an error for a name that is absolute, or that leaves the folder of the data."""
    absolute = name.startswith(("/", "\\"))
    if not absolute and ".." not in name:
        return
    joined = [posixpath.normpath(f"{folder or '.'}/{name}") for folder in folders]
    if absolute or any(one.split("/")[0] == ".." for one in joined):
        raise ValueError(
            f"an image must be named by a path that stays below data_dir, got {name!r:.200}; restore the "
            "file that names it"
        )


def _absent() -> bytes:
    raise ValueError("the row has no image: its field is empty; restore the file")


def _unread() -> bytes:
    raise ValueError("this folder was opened without its images")


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
