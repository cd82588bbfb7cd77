"""MMStar: the letter of the answer is searched after one of four prefixes of the prediction.

The official scores always divide by 250 questions for a category and 1,500 for all; ``rescaled`` scores
divide by the number of questions that were asked.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = ("", "(", "option ", "the answer is ")
QUESTIONS_PER_CATEGORY, QUESTIONS = 250, 1500


def mmstar_hit(prediction: str, answer: str) -> bool:
    """Return whether the letter follows one of the prefixes; "Apple" counts as A."""
    given, letter = (text.lower().strip().replace("\n", " ") for text in (prediction, answer))
    places = [len(prefix) for prefix in PREFIXES if given.startswith(prefix)]
    return any(given[place : place + 1] == letter for place in places if place < len(given))


@dataclass(frozen=True)
class MMStarScore:
    """Official scores, scores rescaled to the number of questions asked, and those of subcategories."""

    final: float
    categories: dict[str, float]
    rescaled: float
    rescaled_categories: dict[str, float]
    subcategories: dict[tuple[str, str], float]


def score_mmstar(rows: Iterable[tuple[str, str, str, str]]) -> MMStarScore:
    """Score (prediction, answer, category, subcategory) rows."""
    hits: Counter[tuple[str, str]] = Counter()
    totals: Counter[tuple[str, str]] = Counter()
    for prediction, answer, category, subcategory in rows:
        hits[category, subcategory] += mmstar_hit(prediction, answer)
        totals[category, subcategory] += 1
    hit: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for (category, subcategory), total in totals.items():
        hit[category] += hits[category, subcategory]
        asked[category] += total
    return MMStarScore(
        final=sum(hit.values()) / QUESTIONS,
        categories={name: found / QUESTIONS_PER_CATEGORY for name, found in hit.items()},
        rescaled=sum(hit.values()) / max(1, sum(asked.values())),
        rescaled_categories={name: found / asked[name] for name, found in hit.items()},
        subcategories={key: hits[key] / total for key, total in totals.items()},
    )
