"""Many predictions scored by a metric of single answers, in little memory and in several processes."""

import json
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import IO

import numpy as np

from hdvl.evaluation.answer_table import AnswerTable
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.short_answers import METRICS
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.statistics import Uncertainty, mean_uncertainty

ROWS = 2000
"""Questions that a process scores at once."""
ALONE = 20_000
"""Questions up to which starting further processes takes longer than it saves."""
IN_FLIGHT = 4
"""Lots of ``ROWS`` questions, for each process, that are under way at once."""

Row = tuple[tuple[str, ...], str]


def score_rows(metric: str, rows: Sequence[Row]) -> list[float]:
    """The value of the metric for each pair of accepted answers and answer."""
    one = METRICS[metric][1]
    return [float(one(answers, given)) for answers, given in rows]


@dataclass
class Totals:
    """Sums over the questions that were scored.

    Attributes:
        values: the value of each question.
        groups: a hash of the group of each.
        tables: sum and count of each group of questions, by the kind and the name of the group.
        each: file that the value of each question is written to, as items of a JSON mapping with a comma
            before each.
    """

    values: "array[float]" = field(default_factory=lambda: array("d"))
    groups: "array[int]" = field(default_factory=lambda: array("q"))
    tables: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    each: IO[str] | None = None

    def add(self, samples: Sequence[Sample], values: Sequence[float]) -> None:
        """Count the values of some questions."""
        self.values.extend(values)
        self.groups.extend(hash(sample.group or sample.id) for sample in samples)
        for sample, value in zip(samples, values, strict=True):
            for kind, name in sample.categories.items():
                total = self.tables.setdefault(kind, {}).setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1
        if self.each is not None:
            for sample, value in zip(samples, values, strict=True):
                self.each.write(f",\n    {json.dumps(sample.id)}: {value!r}")

    def scores(self, metric: str) -> Scores:
        """The mean in per cent, and that of each group of questions.

        Raises:
            ValueError: no question was scored.
        """
        if not self.values:
            raise ValueError(f"{metric} needs a question, got none; check the split and limit")
        scores = Scores(metric, 100 * float(np.frombuffer(self.values).mean()), scale=100.0)
        scores.tables = {
            kind: {name: 100 * total / count for name, (total, count) in sorted(names.items())}
            for kind, names in self.tables.items()
        }
        return scores

    def uncertainty(self) -> Uncertainty:
        """That of the mean in per cent, clustered by the groups of the questions."""
        _, places = np.unique(np.frombuffer(self.groups, np.int64), return_inverse=True)
        sums = np.bincount(places, np.frombuffer(self.values))
        counts = np.bincount(places)
        return mean_uncertainty(sums.astype(float), counts.astype(float), scale=100.0)


def score_stream(
    samples: Iterable[Sample],
    table: AnswerTable,
    metric: str,
    *,
    num_workers: int,
    each: IO[str] | None = None,
) -> Totals:
    """Score the answers in ``table`` to ``samples``, which are read once.

    Args:
        samples: the questions.
        table: the predictions.
        metric: one of :data:`~hdvl.evaluation.scorers.short_answers.METRICS`.
        num_workers: processes that score, if there are more than ``ALONE`` questions.
        each: see :class:`Totals`.

    Raises:
        ValueError: an id occurs twice.
    """
    totals, seen = Totals(each=each), array("q")
    lots = _lots(samples, table, seen)
    first = list(islice(lots, ALONE // ROWS))
    for kept, rows in first:
        totals.add(kept, score_rows(metric, rows))
    if len(first) == ALONE // ROWS:
        for kept, values in _pooled(lots, metric, num_workers):
            totals.add(kept, values)
    if len(np.unique(np.frombuffer(seen, np.int64))) < len(seen):
        raise ValueError("ids of the questions must be unique, some occur twice; restore the file")
    return totals


Lot = tuple[list[Sample], list[Row]]


def _lots(samples: Iterable[Sample], table: AnswerTable, seen: "array[int]") -> Iterator[Lot]:
    """``ROWS`` questions at once that have an answer, with what the metric needs of them."""
    source = iter(samples)
    while lot := list(islice(source, ROWS)):
        seen.extend(hash(one.id) for one in lot)
        answers = table.take([one.id for one in lot])
        pairs = [(one, said) for one, said in zip(lot, answers, strict=True) if said is not None]
        yield [one for one, _ in pairs], [(one.answers, said) for one, said in pairs]


def _pooled(
    lots: Iterator[Lot], metric: str, num_workers: int
) -> Iterator[tuple[list[Sample], list[float]]]:
    """The questions of each lot with their values, in order."""
    if num_workers < 2:
        yield from ((kept, score_rows(metric, rows)) for kept, rows in lots)
        return
    waiting: deque[tuple[list[Sample], Future[list[float]]]] = deque()
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        for kept, rows in lots:
            waiting.append((kept, pool.submit(score_rows, metric, rows)))
            if len(waiting) > IN_FLIGHT * num_workers:
                done, values = waiting.popleft()
                yield done, values.result()
        for done, values in waiting:
            yield done, values.result()
