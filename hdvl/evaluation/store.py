"""The answers of a run, which are appended one by one so that an interrupted run can be continued.

An answer is stored under a hash of everything it depends on: the model, the options of generation, the text
of the question and the bytes of its images. Only questions for which one of these changed are asked again.
"""

from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any

from hdvl.appended import append_row, end_torn_line, whole_rows
from hdvl.files import hold


class AnswerStore:
    """The answers of a task; a context manager that appends to the file of this rank.

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
        end_torn_line(self._file, self.path)
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
        append_row(self._file, row)


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file by their key; a line that was cut off by the end of its process is left out."""
    rows = (row for _, _, row in whole_rows(path))
    return {row["key"]: row for row in rows if isinstance(row.get("key"), str)}
