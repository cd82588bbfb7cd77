"""VizWiz: VQA accuracy with rules of its own, and scores for the detection of unanswerable questions.

Only the prediction is normalised, not the answers, and each answer is left out once, by its position.
Most entries of the official table of contractions have a curly apostrophe, so that a prediction with a
restored contraction rarely equals an answer.
"""

from collections.abc import Sequence
from functools import lru_cache

from hdvl.evaluation.metrics.vqa_accuracy import leave_one_out
from hdvl.evaluation.metrics.vqa_text import (
    ARTICLES,
    DIGITS,
    RESTORED,
    clean_space,
    without_marks,
)

STRAIGHT = {"ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"}
STRAIGHT_SPELLINGS = {"couldn'tve", "hadn'tve"}


def curly(text: str) -> str:
    return text.replace("'", "\u2019")


CURLY_CONTRACTIONS = {
    wrong if wrong in STRAIGHT_SPELLINGS else curly(wrong): right
    if right in STRAIGHT
    else curly(right)
    for wrong, right in RESTORED.items()
}


@lru_cache(maxsize=1 << 17)
def normalised_vizwiz(text: str) -> str:
    """A prediction as VizWiz compares it."""
    words = [DIGITS.get(word, word) for word in without_marks(clean_space(text)).lower().split()]
    return " ".join(CURLY_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vizwiz_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of one answer, between 0 and 1."""
    return leave_one_out(list(answers).count(normalised_vizwiz(prediction)), len(answers))


def unanswerable_precision(answerable: Sequence[int], predicted: Sequence[float]) -> float:
    """Return the average precision of detecting unanswerable questions.

    ``predicted`` are scores of answerability. Questions with equal scores share a threshold, as in
    scikit-learn.
    """
    pairs = list(
        zip((1 - one for one in answerable), (1.0 - one for one in predicted), strict=True)
    )
    expected = sum(label for label, _ in pairs)
    found = seen = 0
    total = 0.0
    for threshold in sorted({score for _, score in pairs}, reverse=True):
        labels = [label for label, score in pairs if score == threshold]
        seen += len(labels)
        found += sum(labels)
        total += sum(labels) / max(1, expected) * (found / seen)
    return total


def unanswerable_f1(answerable: Sequence[int], predicted: Sequence[float]) -> float:
    """Return the F1 score of detecting unanswerable questions at a threshold of one half."""
    pairs = [(not one, 1.0 - given > 0.5) for one, given in zip(answerable, predicted, strict=True)]
    both = pairs.count((True, True))
    either = 2 * both + pairs.count((True, False)) + pairs.count((False, True))
    return 2 * both / either if either else 0.0
