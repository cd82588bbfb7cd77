"""OCRBench v1: an answer counts if the prediction contains it; the final score is at most 1,000."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RECOGNITION = ("Regular", "Irregular", "Artistic", "Handwriting", "Digit String", "Non-Semantic")
FORMULAS = "HME100k"  # for handwritten formulas case matters and spaces are removed


def flat(text: str) -> str:
    return text.strip().replace("\n", " ")


def ocrbench_hit(dataset: str, answers: str | Sequence[str], prediction: str) -> bool:
    """Whether one of ``answers`` is part of ``prediction``."""
    expected = [answers] if isinstance(answers, str) else answers
    if dataset == FORMULAS:
        given = flat(prediction).replace(" ", "")
        return any(flat(answer).replace(" ", "") in given for answer in expected)
    given = flat(prediction.lower())
    return any(flat(answer.lower()) in given for answer in expected)


@dataclass(frozen=True)
class OCRBenchItem:
    """A question; ``prediction`` is ``None`` if the model gave none, which counts as wrong."""

    dataset: str
    type: str
    answers: str | Sequence[str]
    prediction: str | None


@dataclass(frozen=True)
class OCRBenchScore:
    """Total hits, those of each type and group, the accuracy of each data set, and unanswered items."""

    final: int
    types: dict[str, int]
    groups: dict[str, int]
    datasets: dict[str, float]
    unanswered: int


def group_of(kind: str) -> str:
    """The row of the published table that a question type belongs to."""
    return "Text Recognition" if kind.startswith(RECOGNITION) else kind


def score_ocrbench(items: Iterable[OCRBenchItem]) -> OCRBenchScore:
    """Count the hits; the accuracy of a data set is computed over all its items, answered or not."""
    types: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    unanswered = 0
    for item in items:
        totals[item.dataset] += 1
        hit = False
        if item.prediction is None:
            unanswered += 1
        else:
            hit = ocrbench_hit(item.dataset, item.answers, item.prediction)
        types[item.type] += hit
        groups[group_of(item.type)] += hit
        hits[item.dataset] += hit
    datasets = {name: hits[name] / total for name, total in totals.items()}
    return OCRBenchScore(sum(types.values()), dict(types), dict(groups), datasets, unanswered)
