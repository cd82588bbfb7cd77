"""Scores of MME, POPE and HallusionBench as VLMEvalKit aggregates them, in per cent.

Rows hold the results of ``yes_no.extract_yes_no``. MME is grouped by image, not by the order of rows;
POPE reports F1; HallusionBench contains only the questions with a figure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def per_cent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0


def mme_task(rows: Iterable[tuple[str, bool]]) -> float:
    """Return the sum of accuracy and accuracy+ of (image, right) rows, up to 200."""
    images: dict[str, list[bool]] = defaultdict(list)
    for image, right in rows:
        images[image].append(right)
    incomplete = [image for image, hits in images.items() if len(hits) < 2]
    if incomplete:
        raise ValueError(
            f"MME asks two questions about each image, got one about {incomplete[0]} and "
            f"{len(incomplete) - 1} more; restore the rows that are missing"
        )
    every = [right for hits in images.values() for right in hits]
    return per_cent(every) + per_cent([hits[0] and hits[1] for hits in images.values()])


@dataclass(frozen=True)
class PopeRating:
    """F1, which VLMEvalKit calls the overall score, accuracy, precision and recall."""

    f1: float
    accuracy: float
    precision: float
    recall: float


def pope_rating(rows: Iterable[tuple[str, str]]) -> PopeRating:
    """Rate (extracted, answer) rows of Yes, No or Unknown; Unknown counts as negative and is never right."""
    pairs = list(rows)
    positive = sum(given == expected == "Yes" for given, expected in pairs)
    predicted, true = (sum(pair[side] == "Yes" for pair in pairs) for side in (0, 1))
    precision = positive / predicted if predicted else 0.0
    recall = positive / true if true else 0.0
    both = precision + recall
    return PopeRating(
        f1=100 * 2 * precision * recall / both if both else 0.0,
        accuracy=per_cent([given == expected for given, expected in pairs]),
        precision=100 * precision,
        recall=100 * recall,
    )


@dataclass(frozen=True)
class HallusionRow:
    """A question about a figure and whether it was answered right."""

    category: str
    l2_category: str
    set_id: str
    figure_id: str
    question_id: str
    right: bool


@dataclass(frozen=True)
class HallusionRating:
    """Percentages of right questions, and of figures and questions for which all answers are right."""

    all_accuracy: float
    figure_accuracy: float
    question_accuracy: float


def hallusion_rating(rows: Sequence[HallusionRow]) -> HallusionRating:
    """Rate rows; figures and questions are identified with the second category, not the first."""
    figures: dict[tuple[str, ...], bool] = {}
    questions: dict[tuple[str, ...], bool] = {}
    for row in rows:
        for groups, last in ((figures, row.figure_id), (questions, row.question_id)):
            key = (row.l2_category, row.set_id, last)
            groups[key] = groups.get(key, True) and row.right
    return HallusionRating(
        per_cent([row.right for row in rows]),
        per_cent(list(figures.values())),
        per_cent(list(questions.values())),
    )


def hallusion_table(rows: Sequence[HallusionRow]) -> dict[str, HallusionRating]:
    """The rating of all rows under "Overall", and of each category and second category."""
    table = {"Overall": hallusion_rating(rows)}
    for column in ("category", "l2_category"):
        for name in sorted({str(getattr(row, column)) for row in rows}):
            table[name] = hallusion_rating([row for row in rows if getattr(row, column) == name])
    return table
