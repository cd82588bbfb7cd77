"""Predictions by id in a temporary database, so that any number of them takes little memory."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from hdvl.evaluation.metrics.joining import Problems, Rules, refuse

CACHE = 32_000
"""Kibibytes of the database that are kept in memory."""
LISTED = 1000
"""Ids of each kind of problem that are kept; all are counted."""
ADD = """INSERT INTO answers (id, answer, wrong) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE
SET answer = excluded.answer, wrong = wrong + excluded.wrong, times = times + 1"""
TOGETHER = 1000
"""Ids that are looked up by one statement."""

Stored = Sequence[Any]
"""The number of a row, the answer or None, how often it was no text, and how often it occurred."""


class AnswerTable:
    """The predictions of a file; a context manager that removes them at its end.

    Each question is looked up once. Faults of the predictions are treated as by
    :func:`~hdvl.evaluation.metrics.joining.join`.

    Args:
        rules: what the official scorer does with such predictions.
        predictions: (id, answer) of each row.

    Attributes:
        counts: how many ids each kind of problem concerns.
        problems: the first ``LISTED`` of them.
    """

    def __init__(self, rules: Rules, predictions: Iterable[tuple[str, object]]) -> None:
        self.rules, self.predictions = rules, predictions
        self.problems: Problems[str] = Problems()
        self.counts = dict.fromkeys(vars(self.problems), 0)
        self._undo = ExitStack()

    def __enter__(self) -> "AnswerTable":
        with ExitStack() as undo:
            folder = undo.enter_context(TemporaryDirectory())
            self._base = sqlite3.connect(Path(folder) / "answers", isolation_level=None)
            undo.callback(self._base.close)
            for line in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE}"):
                self._base.execute(f"PRAGMA {line}")
            self._base.execute(
                "CREATE TABLE answers (id TEXT UNIQUE, answer TEXT, wrong INTEGER, "
                "times INTEGER DEFAULT 1)"
            )
            self._base.execute("BEGIN")
            self._base.executemany(ADD, (self._row(*one) for one in self.predictions))
            self._base.execute("COMMIT")
            ((self._total,),) = self._base.execute("SELECT coalesce(max(rowid), 0) FROM answers")
            self._seen = bytearray(self._total + 1)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def _row(self, name: str, answer: object) -> tuple[bytes, bytes | None, int]:
        if isinstance(answer, str):
            return _bytes(name), _bytes(answer), 0
        return _bytes(name), None if self.rules.not_text == "refuse" else _bytes(str(answer)), 1

    def take(self, names: Sequence[str]) -> list[str | None]:
        """The answer to each question; ``None`` for one that is not to be scored."""
        found = list[str | None]()
        for start in range(0, len(names), TOGETHER):
            part = names[start : start + TOGETHER]
            rows = self._rows(part)
            found += [self._answer(name, row) for name, row in zip(part, rows, strict=True)]
        return found

    def _rows(self, names: Sequence[str]) -> list[Stored | None]:
        """The stored row of each name."""
        keys = list(map(_bytes, names))
        marks = ",".join("?" * len(keys))
        find = f"SELECT id, rowid, answer, wrong, times FROM answers WHERE id IN ({marks})"
        known = {key: stored for key, *stored in self._base.execute(find, keys)}
        return list(map(known.get, keys))

    def _answer(self, name: str, row: Stored | None) -> str | None:
        answer: str | None = None
        if row is not None:
            place, raw, wrong, times = row
            self._seen[place] = 1
            if wrong:
                self._note("not_text", name, wrong)
            if times > 1:
                self._note("duplicate", name, times - 1)
            answer = None if raw is None else raw.decode("utf-8", "surrogatepass")
        if answer is None:
            self._note("missing", name, 1)
            answer = "" if self.rules.missing == "empty" else None
        return answer

    def finish(self, *, partial: bool) -> Problems[str]:
        """The faults, after every question has been looked up.

        Raises:
            ValueError: the official scorer would refuse the predictions, and ``partial`` is false.
        """
        unknown = self._total - sum(self._seen)
        if unknown:
            self.counts["unknown"] = unknown
            places = (place for place in range(1, self._total + 1) if not self._seen[place])
            find = "SELECT id FROM answers WHERE rowid = ?"
            for place in islice(places, LISTED):
                (name,) = self._base.execute(find, (place,)).fetchone()
                self.problems.unknown.append(name.decode("utf-8", "surrogatepass"))
        if not partial:
            refuse(self.problems, self.rules, self.counts)
        return self.problems

    def _note(self, kind: str, name: str, count: int) -> None:
        self.counts[kind] += count
        listed: list[str] = getattr(self.problems, kind)
        if len(listed) < LISTED:
            listed.append(name)


def _bytes(text: str) -> bytes:
    """A text as bytes, since a database refuses half of a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")
