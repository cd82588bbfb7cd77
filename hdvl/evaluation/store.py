"""The answers of a run, which are appended one by one so that an interrupted run goes on where it stopped.

An answer is known by a hash of all that it depends on: the model, the options of generation, the text of the
question and the bytes of its images. Whoever changes one of them is answered anew, and what did not change is
not asked again.
"""

import json
from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any

from hdvl.files import hold


class AnswerStore:
    """The answers of a task; a context manager that appends to a file of this rank alone.

    Args:
        folder: the folder of the task.
        rank: the number of this process among those that answer the task.

    Attributes:
        known: the rows with an answer that all ranks had written when the store was opened, by their key.

    Raises:
        ValueError: another process writes the file of this rank.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.path = folder / f"answers.rank{rank}.jsonl"
        self.known: dict[str, dict[str, Any]] = {}
        self._file: BufferedWriter | None = None

    def __enter__(self) -> "AnswerStore":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        if not hold(self._file):
            self._file.close()
            raise ValueError(
                f"{self.path} is being written by another process; wait for it, or change outputs"
            )
        if self._file.tell() and not _ends_line(self.path):
            self._file.write(b"\n")  # the process that wrote the line before was killed
            self._file.flush()
        for path in sorted(self.folder.glob("answers.rank*.jsonl")):
            self.known |= read_answers(path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row with its ``key``. It survives the end of this process as soon as this returns."""
        assert self._file is not None
        text = json.dumps(row, ensure_ascii=False)
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file by their key; a line that was cut off by the end of its process is left out."""
    found = dict[str, dict[str, Any]]()
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("key"), str):
                found[row["key"]] = row
    return found


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
