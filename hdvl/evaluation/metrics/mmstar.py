"""MMStar: the answer's letter at one of four places of the prediction.

The official scores divide by 250 questions a category and 1,500 in all, whatever was asked;
``rescaled`` divides by what was.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = ("", "(", "option ", "the answer is ")
OF_CATEGORY, OF_ALL = 250, 1500


def mmstar_hit(prediction: str, answer: str) -> bool:
    """Whether the letter follows one of the prefixes; "Apple" counts as A."""
    given, letter = (text.lower().strip().replace("\n", " ") for text in (prediction, answer))
    places = [len(prefix) for prefix in PREFIXES if given.startswith(prefix)]
    return any(given[place : place + 1] == letter for place in places if place < len(given))


@dataclass(frozen=True)
class MMStarScore:
    """Scores by the official constants, by the number of questions asked, and of subcategories."""

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
        final=sum(hit.values()) / OF_ALL,
        categories={name: found / OF_CATEGORY for name, found in hit.items()},
        rescaled=sum(hit.values()) / max(1, sum(asked.values())),
        rescaled_categories={name: found / asked[name] for name, found in hit.items()},
        subcategories={key: hits[key] / total for key, total in totals.items()},
    )
