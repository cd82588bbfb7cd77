"""The scores of the answers to a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvl.evaluation.samples import Sample

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """A score that is no mean over questions, in a form that can be computed again from drawn groups.

    Attributes:
        data: values of each group of questions, such as sums, one array for each kind of value.
        statistic: function of arrays like those of ``data`` and of ``axis`` that gives the score.
        paired: draw the same groups from all arrays; otherwise each array is resampled independently.
        is_share: the score is 100 times a mean over groups of values in 0..1.
    """

    data: tuple[Array, ...]
    statistic: Callable[..., Any]
    paired: bool = True
    is_share: bool = False


def ratio(scale: float = 100.0) -> Callable[..., Any]:
    """The statistic ``scale`` times the sum of the first array over the sum of the second."""

    def statistic(first: Array, second: Array, axis: int = -1) -> Any:
        below = second.sum(axis)
        with np.errstate(all="ignore"):
            return np.where(below == 0, 0.0, scale * first.sum(axis) / below)

    return statistic


def sums_by_group(
    samples: Sequence[Sample], columns: Sequence[Mapping[str, float]]
) -> tuple[Array, ...]:
    """For each column, a value by id, its sum over each group of questions (g,); absent values are 0."""
    groups: dict[str, list[str]] = {}
    for sample in samples:
        groups.setdefault(sample.group or sample.id, []).append(sample.id)
    return tuple(
        np.array([sum(column.get(name, 0.0) for name in names) for names in groups.values()], float)
        for column in columns
    )


@dataclass
class Scores:
    """The score of a task.

    Attributes:
        metric: name of the score that is reported first.
        value: that score.
        values: all scores by name, the first included.
        correct: a number for each question, in 0..1 where the metric is an accuracy.
        scale: the score is ``scale`` times the mean of ``correct``; ``None`` if it is not such a mean.
        resampling: how a score that is no such mean is computed again, for its standard error.
        tables: scores of groups of questions, by the kind of group and the name of the group.
        unparsed: ids of answers that the rules of the scorer could not read.
        parsed: the value that the scorer parsed from an answer, if it reports one.
        notes: facts that a reader must know, such as which tokenizer was used.
    """

    metric: str
    value: float
    values: dict[str, float] = field(default_factory=dict)
    correct: dict[str, float] = field(default_factory=dict)
    scale: float | None = None
    resampling: Resampling | None = None
    tables: dict[str, dict[str, float]] = field(default_factory=dict)
    unparsed: list[str] = field(default_factory=list)
    parsed: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = {self.metric: self.value, **self.values}


Scorer = Callable[[Sequence[Sample], Mapping[str, str]], Scores]
"""Function of the questions and the answer to each of them."""


def mean_scores(
    metric: str,
    samples: Sequence[Sample],
    correct: Mapping[str, float],
    *,
    scale: float = 100.0,
    unparsed: Sequence[str] = (),
    parsed: Mapping[str, str | None] | None = None,
) -> Scores:
    """Scores whose first value is ``scale`` times the mean of ``correct``, with a table of each category."""
    if not samples:
        raise ValueError(f"{metric} needs a question, got none; check the split and limit")
    return Scores(
        metric,
        scale * sum(correct[sample.id] for sample in samples) / len(samples),
        correct=dict(correct),
        scale=scale,
        tables=category_tables(samples, correct, scale),
        unparsed=list(unparsed),
        parsed=dict(parsed or {}),
    )


def category_tables(
    samples: Sequence[Sample], correct: Mapping[str, float], scale: float = 100.0
) -> dict[str, dict[str, float]]:
    """The mean of each group of questions that the categories of the samples name."""
    groups: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for kind, name in sample.categories.items():
            groups.setdefault(kind, {}).setdefault(name, []).append(correct[sample.id])
    return {
        kind: {name: scale * sum(found) / len(found) for name, found in sorted(names.items())}
        for kind, names in groups.items()
    }
