"""Corpus BLEU-1 to BLEU-4 of tokenised captions, with the closest reference length of each image."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from hdvl.evaluation.metrics.ngrams import LONGEST, NGram, ngram_counts

TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap adds these two to avoid divisions by zero


def bleu(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[float, ...]:
    """Return BLEU-1, -2, -3 and -4 for one tokenised caption per image."""
    guesses, correct = [0] * LONGEST, [0] * LONGEST
    given_length = expected_length = 0
    for key, text in predictions.items():
        counts = ngram_counts(text)
        ceiling: Counter[NGram] = Counter()
        for reference in references[key]:
            ceiling |= ngram_counts(reference)
        length = len(text.split())
        given_length += length
        expected_length += closest_length(length, references[key])
        for ngram, count in counts.items():
            correct[len(ngram) - 1] += min(count, ceiling[ngram])
        for size in range(LONGEST):
            guesses[size] += max(0, length - size)
    return combined(correct, guesses, brevity_of(given_length, expected_length))


def closest_length(length: int, references: Sequence[str]) -> int:
    """The reference length nearest to ``length``; the shorter of two equally near."""
    lengths = [len(reference.split()) for reference in references]
    return min((abs(one - length), one) for one in lengths)[1]


def brevity_of(given: int, expected: int) -> float:
    """Return the brevity penalty, which is below 1 if the captions are shorter than their references."""
    ratio = (given + TINY) / (expected + SMALL)
    return math.exp(1 - 1 / ratio) if ratio < 1 else 1.0


def combined(correct: list[int], guesses: list[int], brevity: float) -> tuple[float, ...]:
    """Geometric means of the precisions up to each length."""
    product, scores = 1.0, []
    for size in range(LONGEST):
        product *= (correct[size] + TINY) / (guesses[size] + SMALL)
        scores.append(product ** (1 / (size + 1)) * brevity)
    return tuple(scores)
