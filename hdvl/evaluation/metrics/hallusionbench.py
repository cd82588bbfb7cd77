"""HallusionBench: accuracies of questions, question pairs and figures, and the causes of errors.

Each answer has a code from the judge: 0 wrong, 1 right, 2 uncertain. A question of category VS that is
asked without a figure (figure 0) is also right if the model is uncertain.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WRONG, RIGHT, UNCERTAIN = 0, 1, 2
Cause = Literal["", "LH", "VI", "Mix"]  # language hallucination, visual illusion, both


@dataclass(frozen=True)
class HallusionItem:
    """One question about one figure. ``same``: whether the answer equals the one about figure 0."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: int
    truth: int
    code: int
    same: bool = False

    @property
    def correct(self) -> bool:
        return self.code == RIGHT or (self.code == UNCERTAIN and self.without_figure)

    @property
    def original(self) -> bool:
        return self.figure_id == "0"

    @property
    def without_figure(self) -> bool:
        return self.category == "VS" and self.original

    @property
    def pair(self) -> tuple[str, ...]:
        """The key of the question, which is the same for all figures that it is asked about."""
        return (self.category, self.subcategory, self.set_id, self.question_id)

    @property
    def figure(self) -> tuple[str, ...]:
        return (self.category, self.subcategory, self.set_id, self.figure_id)


@dataclass(frozen=True)
class HallusionScore:
    """Percentages of right questions, pairs and figures; ``None`` for shares of an empty set."""

    all_accuracy: float
    pair_accuracy: float
    figure_accuracy: float | None
    easy_pairs: float | None
    hard_pairs: float | None
    yes_difference: float
    false_positive_ratio: float | None
    question_causes: dict[Cause, int]
    pair_causes: dict[Cause, int]
    item_causes: dict[Cause, int]
    figures: dict[str, float]


def grouped(
    items: Iterable[HallusionItem], key: Callable[[HallusionItem], tuple[str, ...]]
) -> dict[tuple[str, ...], list[HallusionItem]]:
    groups: dict[tuple[str, ...], list[HallusionItem]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def all_right(groups: Iterable[Sequence[HallusionItem]]) -> float | None:
    """Return the percentage of groups in which every answer is right."""
    right = [all(item.correct for item in group) for group in groups]
    return 100 * sum(right) / len(right) if right else None


def question_cause(item: HallusionItem) -> Cause:
    """Return the cause of a wrong or uncertain answer, judged without other answers."""
    if item.code == RIGHT:
        return ""
    if item.category == "VD":
        return "VI" if item.original or item.code == UNCERTAIN else "Mix"
    if item.visual_input == 0:
        return "LH" if item.code == WRONG else ""
    return "Mix" if item.code == WRONG else "VI"


def pair_cause(item: HallusionItem, original: int) -> Cause:
    """Return the cause of an answer, given ``original``, the code of the same question about figure 0."""
    if item.original:
        if item.category == "VD":
            return "" if item.code == RIGHT else "VI"
        return "LH" if item.code == WRONG else ""
    if item.code == RIGHT:
        return ""
    if item.category == "VD":
        repeated = original == RIGHT and item.code == WRONG and item.same
        return "Mix" if repeated else "VI"
    if original == WRONG:
        return "LH" if item.code == WRONG and item.same else "Mix"
    if original == UNCERTAIN or item.code == UNCERTAIN:
        return "VI"
    return "LH" if item.visual_input == 2 and item.same else "VI"


def combined(causes: Iterable[Cause]) -> Cause:
    """Return the cause of a group, which is mixed if both kinds of errors occur."""
    found = set(causes)
    language = bool(found & {"LH", "Mix"})
    visual = bool(found & {"VI", "Mix"})
    if language and visual:
        return "Mix"
    return "LH" if language else "VI" if visual else ""


def tally(causes: Iterable[Cause]) -> dict[Cause, int]:
    counts: dict[Cause, int] = {"LH": 0, "VI": 0, "Mix": 0}
    for cause in causes:
        if cause:
            counts[cause] += 1
    return counts


def figure_table(figures: Iterable[Sequence[HallusionItem]]) -> dict[str, float]:
    """Return the numbers of right, wrong and inconsistent figures, and the mean share of right answers."""
    shares = [sum(item.correct for item in group) / len(group) for group in figures]
    right, wrong = shares.count(1), shares.count(0)
    return {
        "total": len(shares),
        "correct": right,
        "wrong": wrong,
        "inconsistent": len(shares) - right - wrong,
        "score": sum(shares) / len(shares) if shares else 0.0,
    }


def checked(items: Iterable[HallusionItem]) -> list[HallusionItem]:
    """Return the items, after checking that each was asked once and has a valid code."""
    found = list(items)
    names = {(item.figure, item.question_id) for item in found}
    if not found or len(names) != len(found):
        raise ValueError(
            f"HallusionBench needs each question once for each figure, got {len(found)} answers "
            f"to {len(names)} questions; remove the duplicates"
        )
    for item in found:
        if item.code not in {WRONG, RIGHT, UNCERTAIN}:
            raise ValueError(
                f"code must be 0 (wrong), 1 (right) or 2 (uncertain), got {item.code!r} for "
                f"{'_'.join(item.figure)}_{item.question_id}; judge the answer again"
            )
    return found


def score_hallusionbench(items: Iterable[HallusionItem]) -> HallusionScore:
    """Score judged answers; every question must have been asked about its figure 0 too."""
    found = checked(items)
    originals = {item.pair: item.code for item in found if item.original}
    lacking = sorted({"_".join(item.pair) for item in found if item.pair not in originals})
    if lacking:
        raise ValueError(
            f"HallusionBench compares each answer with that about figure 0, got none for "
            f"{lacking[0]} and {len(lacking) - 1} more; add them"
        )
    causes = {item: pair_cause(item, originals[item.pair]) for item in found}
    pairs = grouped(found, lambda item: item.pair)
    figures = grouped((i for i in found if not i.without_figure), lambda item: item.figure)
    easy = grouped((i for i in found if i.visual_input != 2), lambda item: item.pair)
    hard = grouped((i for i in found if i.visual_input == 2), lambda item: item.pair)
    yes_answers = sum(item.correct == bool(item.truth) for item in found)
    wrong = [item.truth for item in found if not item.correct]
    return HallusionScore(
        all_accuracy=100 * sum(item.correct for item in found) / len(found),
        pair_accuracy=all_right(pairs.values()) or 0.0,
        figure_accuracy=all_right(figures.values()),
        easy_pairs=all_right(easy.values()),
        hard_pairs=all_right(hard.values()),
        yes_difference=(yes_answers - sum(item.truth for item in found)) / len(found),
        false_positive_ratio=(len(wrong) - sum(wrong)) / len(wrong) if wrong else None,
        question_causes=tally(question_cause(item) for item in found),
        pair_causes=tally(combined(causes[item] for item in group) for group in pairs.values()),
        item_causes=tally(causes.values()),
        figures=figure_table(figures.values()),
    )
