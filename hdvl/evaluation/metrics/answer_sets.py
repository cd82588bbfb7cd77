"""Scoring of a prediction file by a metric of single answers, with a report of bad input."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from hdvl.evaluation.metrics.joining import Key, Problems, Rules, join

Metric = Callable[[Sequence[str], str], float]


@dataclass(frozen=True)
class SetScore(Generic[Key]):
    """The mean over the scored questions, the score of each, and the problems of the file."""

    mean: float
    scores: dict[Key, float]
    problems: Problems[Key]


def score_set(
    metric: Metric,
    answers: Mapping[Key, Sequence[str]],
    predictions: Iterable[tuple[Key, object]],
    rules: Rules,
    *,
    partial: bool = False,
) -> SetScore[Key]:
    """Score (id, prediction) pairs against the accepted answers of each id.

    ``rules`` is the entry of the benchmark in ``official_rules.RULES``. A question that is left out
    does not count in the mean. Where several answers to a question count, ``scores`` has that of the last.
    """
    joined = join(answers, predictions, rules, partial=partial)
    scores = {key: metric(answers[key], given) for key, given in joined.answers.items()}
    values = [*scores.values(), *(metric(answers[key], given) for key, given in joined.earlier)]
    mean = sum(values) / len(values) if values else 0.0
    return SetScore(mean, scores, joined.problems)
