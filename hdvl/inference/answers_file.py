"""A JSONL file of answers, which an interrupted run can continue.

A run appends each row to ``NAME.part`` in the order in which answers are complete, and writes its settings
to ``NAME.run.json``. When all rows are complete, they are written atomically to ``NAME`` in order, and
``NAME.part`` is removed. A run that is started again keeps the rows that have an answer and asks only the
others, wherever it was interrupted.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from hdvl.appended import append_row, end_torn_line, whole_rows
from hdvl.files import atomic_write, hold, read_json, write_text


class _Place(NamedTuple):
    """The position of a row in a file, in bytes, and whether it has an answer."""

    start: int
    stop: int
    answered: bool


class AnswersFile:
    """The rows of a run, by number. The context manager locks the file for this process.

    Args:
        path: the finished file.
        settings: what the answers depend on, as plain data.
        total: the number of rows.

    Attributes:
        answered: the numbers of the rows that had an answer when the file was opened.

    Raises:
        ValueError: the file was made with other settings, or another process is writing it.
    """

    def __init__(self, path: str | Path, *, settings: Mapping[str, Any], total: int) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"outputs must be a file, got {str(path)!r}, which is not")
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.record = self.path.with_name(f"{self.path.name}.run.json")
        self.total = total
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        self.answered = frozenset[int]()
        self._rows: BufferedWriter | None = None

    def __enter__(self) -> "AnswersFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.part.exists()
        with ExitStack() as undo:
            self._rows = undo.enter_context(self.part.open("ab"))
            if new:
                undo.callback(self.part.unlink)
            if not hold(self._rows):
                raise ValueError(
                    f"outputs={str(self.path)!r} is being written by another process; wait for it, or "
                    "give another file"
                )
            if self.path.exists() or self._rows.tell():
                self._check_settings()
            else:
                self._write_record({})
            self.answered = self._take_over()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._rows is not None
        self._rows.close()

    def append(self, number: int, row: Mapping[str, Any]) -> None:
        """Add row ``number``. It survives the end of this process as soon as this returns."""
        assert self._rows is not None
        append_row(self._rows, {"row": number, **row})

    def finish(self, numbers: Mapping[str, Any] | None) -> None:
        """Write the finished file with all rows in order, and add ``numbers`` to the settings.

        Without ``numbers`` those of an earlier run are kept.

        Raises:
            RuntimeError: a row is missing.
        """
        places = _places(self.part)
        missing = [number for number in range(self.total) if number not in places]
        if missing:
            raise RuntimeError(f"{self.part} lacks {len(missing)} rows, the first is {missing[0]}")
        with (
            atomic_write(self.path) as part,
            part.open("wb") as file,
            self.part.open("rb") as rows,
        ):
            for number in range(self.total):
                rows.seek(places[number].start)
                file.write(rows.read(places[number].stop - places[number].start))
        if numbers is not None:
            self._write_record(numbers)
        self.part.unlink()

    def _take_over(self) -> frozenset[int]:
        """Copy the answers of a finished file to the part, and return the positions of answered rows.

        Rows are only appended to the part, so that nothing is lost if the process ends at this point.
        """
        assert self._rows is not None
        end_torn_line(self._rows, self.part)
        known = {number for number, place in _places(self.part).items() if place.answered}
        finished = _places(self.path)
        if finished:
            with self.path.open("rb") as rows:
                for number in sorted(set(finished) - known):
                    if finished[number].answered:
                        rows.seek(finished[number].start)
                        self._rows.write(rows.read(finished[number].stop - finished[number].start))
                        known.add(number)
        self._rows.flush()
        return frozenset(known)

    def _write_record(self, numbers: Mapping[str, Any]) -> None:
        text = json.dumps({"settings": self.settings, **numbers}, indent=2, ensure_ascii=False)
        write_text(self.record, text + "\n")

    def _check_settings(self) -> None:
        if not self.record.is_file():
            raise ValueError(
                f"outputs={str(self.path)!r} exists and has no {self.record.name} beside it, so it was not "
                "written by this command; give another file"
            )
        old, new = _leaves(read_json(self.record).get("settings")), _leaves(self.settings)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if keys:
            shown = "; ".join(
                f"{key} was {old.get(key)!r:.60} and is {new.get(key)!r:.60}" for key in keys
            )
            raise ValueError(
                f"outputs={str(self.path)!r} was begun with other settings ({shown}); give another "
                f"file, or remove it with {self.part.name} and {self.record.name}"
            )


def _leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key."""
    if not isinstance(value, Mapping):
        return {place: value}
    inner = (_leaves(item, f"{place}.{key}" if place else key) for key, item in value.items())
    return {key: item for leaves in inner for key, item in leaves.items()}


def _places(file: Path) -> dict[int, _Place]:
    """Return the positions of the rows of ``file`` by number; of a row that occurs twice, the last position.

    An incomplete line of a process that was killed is ignored.
    """
    return {
        row["row"]: _Place(start, stop, "error" not in row)
        for start, stop, row in whole_rows(file)
        if isinstance(row.get("row"), int)
    }
