"""Predictions by id in a temporary database, so that any number of them takes little memory."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from hdvl.evaluation.metrics.joining import Problems, Rules, answer_text, is_text, refuse

CACHE = 32_000
"""Kibibytes of the database that are kept in memory."""
LISTED = 1000
"""Ids of each kind of problem that are kept; all are counted."""
TABLE = "CREATE TABLE answers (id TEXT, answer TEXT, wrong INTEGER, times INTEGER DEFAULT 1)"
ADD = "INSERT INTO answers (id, answer, wrong) VALUES (?, ?, ?)"
REPLACE = """ ON CONFLICT (id) DO UPDATE
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
        not_asked: function that returns the ids of questions whose answers are not unknown although they are
            not looked up, such as those beyond a limit. It is called if there are answers to such ids.

    Attributes:
        answered: how many questions that were looked up have an answer.
        counts: how many ids each kind of problem concerns.
        problems: the first ``LISTED`` of them.
    """

    def __init__(
        self,
        rules: Rules,
        predictions: Iterable[tuple[str, object]],
        not_asked: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.rules, self.predictions, self.not_asked = rules, predictions, not_asked
        self.problems: Problems[str] = Problems()
        self.answered = 0
        self.counts = dict.fromkeys(vars(self.problems), 0)
        self._undo = ExitStack()

    def __enter__(self) -> "AnswerTable":
        with ExitStack() as undo:
            folder = undo.enter_context(TemporaryDirectory())
            self._base = sqlite3.connect(Path(folder) / "answers", isolation_level=None)
            undo.callback(self._base.close)
            for line in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE}"):
                self._base.execute(f"PRAGMA {line}")
            self._base.execute(TABLE)
            each = self.rules.duplicate == "each"
            self._base.execute(f"CREATE {'' if each else 'UNIQUE'} INDEX ids ON answers (id)")
            self._base.execute("BEGIN")
            rows = (self._row(*one) for one in self.predictions)
            self._base.executemany(ADD if each else f"{ADD}{REPLACE}", rows)
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
        text = answer_text(answer, self.rules)
        return _bytes(name), None if text is None else _bytes(text), int(not is_text(answer))

    def take(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """The answers to score, each with the place of its question in ``names``.

        A question has none if it is not to be scored, and several where more than the last counts.
        """
        places = enumerate(zip(names, self._rows(names), strict=True))
        return [
            (place, answer)
            for place, (name, rows) in places
            for answer in self._answers(name, rows)
        ]

    def _rows(self, names: Iterable[str]) -> Iterator[Sequence[Stored]]:
        """The stored rows of each name, in the order of the file."""
        source = map(_bytes, names)
        while keys := list(islice(source, TOGETHER)):
            marks = ",".join("?" * len(keys))
            find = f"SELECT id, rowid, answer, wrong, times FROM answers WHERE id IN ({marks})"
            known: dict[bytes, list[Stored]] = {}
            for key, *stored in self._base.execute(find, keys):
                known.setdefault(key, []).append(stored)
            yield from (known.get(key, ()) for key in keys)

    def _answers(self, name: str, rows: Sequence[Stored]) -> list[str]:
        self._mark(rows)
        wrong, times = sum(row[2] for row in rows), sum(row[3] for row in rows)
        if wrong:
            self._note("not_text", name, wrong)
        if times > 1:
            self._note("duplicate", name, times - 1)
        answers = [row[1].decode("utf-8", "surrogatepass") for row in rows if row[1] is not None]
        if not all(text.strip() for text in answers):
            self._note("empty", name, 1)
        if not answers:
            if not wrong:
                self._note("missing", name, 1)
            return [""] if self.rules.missing == "empty" else []
        self.answered += 1
        return answers * times if self.rules.duplicate == "repeat" else answers

    def _mark(self, rows: Iterable[Stored]) -> None:
        """Note that the answers in these rows belong to a question."""
        for place, *_ in rows:
            self._seen[place] = 1

    def finish(self, *, partial: bool) -> Problems[str]:
        """The faults, after every question has been looked up.

        Raises:
            ValueError: the official scorer would refuse the predictions, and ``partial`` is false.
        """
        if sum(self._seen) < self._total:
            self._mark(chain.from_iterable(self._rows(self.not_asked())))
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
