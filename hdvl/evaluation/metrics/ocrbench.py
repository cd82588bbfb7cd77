"""OCRBench v1: an answer counts if the prediction contains it; the final score is at most 1,000."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RECOGNITION = ("Regular", "Irregular", "Artistic", "Handwriting", "Digit String", "Non-Semantic")
FORMULAS = "HME100k"  # for handwritten formulas case matters and spaces are removed


FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
"""Full-width forms of ASCII, which lmms-eval reads as ASCII."""


def flat(text: str) -> str:
    return text.strip().replace("\n", " ")


def ocrbench_hit(
    dataset: str, answers: str | Sequence[str], prediction: str, *, fold_width: bool = False
) -> bool:
    """Whether one of ``answers`` is part of ``prediction``.

    With ``fold_width``, full-width letters equal those of ASCII, but not in handwritten formulas.
    """
    expected = [answers] if isinstance(answers, str) else answers
    if dataset == FORMULAS:
        given = flat(prediction).replace(" ", "")
        return any(flat(answer).replace(" ", "") in given for answer in expected)
    given, *wanted = (
        flat((text.translate(FULL_WIDTH) if fold_width else text).lower())
        for text in (prediction, *expected)
    )
    return any(answer in given for answer in wanted)


@dataclass(frozen=True)
class OCRBenchItem:
    """A question; ``prediction`` is ``None`` if the model gave none, which counts as wrong."""

    dataset: str
    type: str
    answers: str | Sequence[str]
    prediction: str | None
    fold_width: bool = False


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
            hit = ocrbench_hit(
                item.dataset, item.answers, item.prediction, fold_width=item.fold_width
            )
        types[item.type] += hit
        groups[group_of(item.type)] += hit
        hits[item.dataset] += hit
    datasets = {name: hits[name] / total for name, total in totals.items()}
    return OCRBenchScore(sum(types.values()), dict(types), dict(groups), datasets, unanswered)
