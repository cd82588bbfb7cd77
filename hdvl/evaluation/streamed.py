"""Many predictions scored one after the other, in little memory."""

import json
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import IO

import numpy as np

from hdvl.evaluation.answer_table import AnswerTable
from hdvl.evaluation.metrics.gqa import GQATotals
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.choices import choice_scores
from hdvl.evaluation.scorers.letters import RULES
from hdvl.evaluation.scorers.short_answers import (
    GQA_ACCURACY_ONLY,
    GQA_CONVERTERS,
    add_gqa_scores,
    gqa_scores,
    metric_of,
    short_answer_scores,
)
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


class StreamedMean:
    """The mean of a metric of single answers, in per cent.

    Args:
        metric: its name.
        one: the value of the answer to a question.
        each: see :class:`Totals`.
    """

    def __init__(
        self, metric: str, one: Callable[[Sample, str], float], each: IO[str] | None = None
    ) -> None:
        self.metric, self.one, self.totals = metric, one, Totals(each=each)

    def add(self, samples: Sequence[Sample], answers: Sequence[str]) -> None:
        """Count the answers to some questions."""
        pairs = zip(samples, answers, strict=True)
        self.totals.add(samples, [float(self.one(sample, said)) for sample, said in pairs])

    def scores(self) -> Scores:
        """The scores of all answers."""
        return self.totals.scores(self.metric)


class StreamedChoices(StreamedMean):
    """Accuracy of the letters that a rule reads in the answers, as ``choice_scores``."""

    def __init__(self, rule: str, each: IO[str] | None = None) -> None:
        super().__init__("accuracy", self.read, each)
        self.rule, self.unparsed = RULES[rule], list[str]()

    def read(self, sample: Sample, answer: str) -> float:
        letter = self.rule(answer, sample.options)
        if letter is None:
            self.unparsed.append(sample.id)
        return float(letter == sample.answer)

    def scores(self) -> Scores:
        return replace(super().scores(), unparsed=self.unparsed)


class StreamedGQA(StreamedMean):
    """The scores of GQA, as ``gqa_scores``."""

    def __init__(self, convert: str | None = None, each: IO[str] | None = None) -> None:
        super().__init__("accuracy", lambda sample, answer: answer == sample.answer, each)
        self.convert, self.details = GQA_CONVERTERS[convert], GQATotals()
        self.detailed = False

    def add(self, samples: Sequence[Sample], answers: Sequence[str]) -> None:
        balanced = list[tuple[Sample, str]]()
        for sample, said in zip(samples, map(self.convert, answers), strict=True):
            question = sample.extra.get("gqa")
            if question is not None:
                self.detailed = True
                self.details.add(sample.id, question, said)
            if question is None or question["isBalanced"]:
                balanced.append((sample, said))
        super().add([sample for sample, _ in balanced], [said for _, said in balanced])

    def scores(self) -> Scores:
        scores = super().scores()
        if self.detailed:
            add_gqa_scores(scores, self.details.score())
        else:
            scores.notes.append(GQA_ACCURACY_ONLY)
        return scores


def streamed(score: Callable[..., Scores], each: IO[str] | None = None) -> StreamedMean | None:
    """What scores one answer after the other as ``score`` scores all of them; ``None`` if nothing does."""
    if not isinstance(score, partial):
        return None
    if score.func is short_answer_scores:
        metric, one = metric_of(score.keywords["metric"])
        return StreamedMean(metric, lambda sample, said: one(sample.accepted, said), each)
    if score.func is choice_scores:
        return StreamedChoices(score.keywords["rule"], each)
    if score.func is gqa_scores:
        return StreamedGQA(score.keywords.get("convert"), each)
    return None


def score_stream(
    read: Callable[[], Iterable[Sample]], table: AnswerTable, scorer: StreamedMean
) -> None:
    """Count the answers in ``table`` to the questions that ``read`` reads.

    Reading the files takes several times as long as the metrics do, so that further processes for these
    would not pay.

    Raises:
        ValueError: an id occurs twice.
    """
    seen, source = array("q"), iter(read())
    while lot := list(islice(source, ROWS)):
        seen.extend(hash(sample.id) for sample in lot)
        pairs = table.take([sample.id for sample in lot])
        scorer.add([lot[place] for place, _ in pairs], [said for _, said in pairs])
    hashes, times = np.unique(np.frombuffer(seen, np.int64), return_counts=True)
    twice = set(hashes[times > 1].tolist())
    if twice:
        name = next(sample.id for sample in read() if hash(sample.id) in twice)
        raise ValueError(
            f"ids of the questions must be unique, got {len(twice)} more than once, such as {name!r}; "
            "restore the file"
        )
