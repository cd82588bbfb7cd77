"""Many predictions scored by a metric of single answers, in little memory."""

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

import numpy as np

from hdvl.evaluation.answer_table import AnswerTable
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.short_answers import METRICS
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.statistics import Uncertainty, mean_uncertainty

ROWS = 2000
"""Questions that are scored at once."""


def _nothing() -> list[float]:
    return [0.0, 0]


@dataclass
class Totals:
    """Sums over the questions that were scored.

    Attributes:
        values: the value of each question.
        groups: a hash of the group of each.
        totals: sum and count of each group of questions, by the kind and the name of the group.
        each: file that the value of each question is written to, as items of a JSON mapping with a comma
            before each.
    """

    values: "array[float]" = field(default_factory=lambda: array("d"))
    groups: "array[int]" = field(default_factory=lambda: array("q"))
    totals: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(_nothing)
    )
    each: IO[str] | None = None

    def add(self, samples: Sequence[Sample], values: Sequence[float]) -> None:
        """Count the values of some questions."""
        self.values.extend(values)
        self.groups.extend(hash(sample.group or sample.id) for sample in samples)
        for sample, value in zip(samples, values, strict=True):
            for category in sample.categories.items():
                total = self.totals[category]
                total[0] += value
                total[1] += 1
        if self.each is not None and samples:
            ids = (sample.id for sample in samples)
            items = json.dumps(dict(zip(ids, values, strict=True)), separators=(",\n    ", ": "))
            self.each.write(f",\n    {items[1:-1]}")

    def scores(self, metric: str) -> Scores:
        """The mean in per cent, and that of each group of questions.

        Raises:
            ValueError: no question was scored.
        """
        if not self.values:
            raise ValueError(f"{metric} needs a question, got none; check the split and limit")
        scores = Scores(metric, 100 * float(np.frombuffer(self.values).mean()), scale=100.0)
        for kind, name in sorted(self.totals):
            total, count = self.totals[kind, name]
            scores.tables.setdefault(kind, {})[name] = 100 * total / count
        return scores

    def uncertainty(self) -> Uncertainty:
        """That of the mean in per cent, clustered by the groups of the questions."""
        _, places = np.unique(np.frombuffer(self.groups, np.int64), return_inverse=True)
        sums = np.bincount(places, np.frombuffer(self.values))
        counts = np.bincount(places)
        return mean_uncertainty(sums.astype(float), counts.astype(float), scale=100.0)


def score_stream(
    samples: Iterable[Sample], table: AnswerTable, metric: str, *, each: IO[str] | None = None
) -> Totals:
    """Score the answers in ``table`` to ``samples``, which are read once.

    Reading the files takes several times as long as the metrics do, so that further processes for these
    would not pay.

    Args:
        samples: the questions.
        table: the predictions.
        metric: one of :data:`~hdvl.evaluation.scorers.short_answers.METRICS`.
        each: see :class:`Totals`.

    Raises:
        ValueError: an id occurs twice.
    """
    one = METRICS[metric][1]
    totals, seen, source = Totals(each=each), array("q"), iter(samples)
    while lot := list(islice(source, ROWS)):
        seen.extend(hash(sample.id) for sample in lot)
        answers = table.take([sample.id for sample in lot])
        pairs = [
            (sample, said) for sample, said in zip(lot, answers, strict=True) if said is not None
        ]
        values = [float(one(sample.answers, said)) for sample, said in pairs]
        totals.add([sample for sample, _ in pairs], values)
    if len(np.unique(np.frombuffer(seen, np.int64))) < len(seen):
        raise ValueError("ids of the questions must be unique, some occur twice; restore the file")
    return totals
