"""TouchStone: a judge's scores of two rounds with swapped positions, their mean times 100."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

FAILED = "error"


@dataclass(frozen=True)
class Round:
    """The scores of two models in one round; rounds that ``failed`` count for neither."""

    models: tuple[str, str]
    scores: tuple[float, float]
    failed: bool = False


def parse_reply(reply: str) -> tuple[float, float] | None:
    """The two scores in the first line of a judge's reply; None if they are not exactly two."""
    # The official code stops the judge after its first line and adds another line.
    parts = f"{reply}\nok".strip().split("\n", 1)[0].strip().split(" ")
    try:
        first, second = (float(part) for part in parts)
    except ValueError:
        return None
    return first, second


@dataclass
class TouchStoneScore:
    """Scores of each model, overall and by category, and the number of rounds that the judge failed."""

    overall: dict[str, float]
    categories: dict[str, dict[str, float]]
    failed: int


def score_touchstone(rows: Iterable[tuple[str, Iterable[Round]]]) -> TouchStoneScore:
    """Score (comma-separated categories, rounds) rows."""
    overall: dict[str, list[float]] = defaultdict(list)
    categories: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed = 0
    for names, rounds in rows:
        for one in rounds:
            if one.failed:
                failed += 1
                continue
            for model, score in zip(one.models, one.scores, strict=True):
                overall[model].append(score)
                for name in names.split(","):
                    categories[name][model].append(score)
    return TouchStoneScore(
        means(overall), {name: means(found) for name, found in categories.items()}, failed
    )


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {model: 100 * (sum(found) / len(found)) for model, found in scores.items()}
