"""LLaVA-Bench (in the wild): the judge's scores of the model relative to those of the reference.

The official script gives both models -1 for a review that it cannot parse, and includes these scores in
the mean. The same is done here, and such reviews are counted; ``without_unread`` excludes them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

UNREAD = (-1.0, -1.0)
Scores = tuple[float, float]  # of the reference, of the model


def parse_review(review: str) -> Scores:
    """Return the two numbers of the first line, or (-1, -1) if it does not contain exactly two."""
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(part) for part in parts)
    except ValueError:
        return UNREAD
    return first, second


@dataclass(frozen=True)
class LlavaBenchScore:
    """The relative score in per cent and both means times ten, rounded as the official script prints them."""

    relative: float | None
    reference: float
    model: float
    reviews: int
    unread: int


def summary(scores: Sequence[Scores], *, without_unread: bool = False) -> LlavaBenchScore:
    """Summarise the reviews of one category; ``relative`` is None when the reference scores 0."""
    unread = sum(tuple(one) == UNREAD for one in scores)
    kept = [one for one in scores if not (without_unread and tuple(one) == UNREAD)]
    if not kept:
        raise ValueError(
            f"LLaVA-Bench needs a review that can be read, got {unread} that cannot; judge again"
        )
    reference, model = (round(sum(column) / len(kept), 3) for column in zip(*kept, strict=True))
    relative = round(model / reference * 100, 1) if reference else None
    return LlavaBenchScore(
        relative, round(reference * 10, 1), round(model * 10, 1), len(kept), unread
    )


def score_llava_bench(
    reviews: Iterable[tuple[str | None, Scores]], *, without_unread: bool = False
) -> Mapping[str, LlavaBenchScore]:
    """Score (category, scores) reviews for each category, and for "all" of them."""
    groups: dict[str, list[Scores]] = defaultdict(list)
    for category, scores in reviews:
        if category is not None:
            groups[category].append(scores)
        groups["all"].append(scores)
    return {name: summary(groups[name], without_unread=without_unread) for name in sorted(groups)}
