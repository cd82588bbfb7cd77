"""CIDEr-D of tokenised captions.

The document frequencies come from the references of the images that are scored, so the score of a
subset is not the mean of the scores that its images have in the whole set, and a single image
scores 0. Values are raw; papers print 100 times as much.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdvl.evaluation.metrics.ngrams import LONGEST, NGram, ngram_counts

SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True)
class Cider:
    """The mean over images and the score of each image, in the order of the predictions."""

    score: float
    per_image: tuple[float, ...]


@dataclass(frozen=True)
class Vector:
    """TF-IDF weights of a caption by n-gram length, their norms, and how many bigrams it has."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider_d(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Cider:
    """Score one tokenised caption an image against its tokenised references."""
    counts = {key: [ngram_counts(text) for text in references[key]] for key in predictions}
    frequency: Counter[NGram] = Counter()
    for of_image in counts.values():
        frequency.update({ngram for one in of_image for ngram in one})
    log_images = math.log(len(predictions)) if predictions else 0.0
    scores = []
    for key, text in predictions.items():
        given = vector_of(ngram_counts(text), frequency, log_images)
        expected = [vector_of(one, frequency, log_images) for one in counts[key]]
        total = sum(similarity(given, one) for one in expected)
        scores.append(SCALE * total / LONGEST / len(expected))
    return Cider(sum(scores) / len(scores) if scores else 0.0, tuple(scores))


def vector_of(counts: Counter[NGram], frequency: Counter[NGram], log_images: float) -> Vector:
    """Weights of a caption; an n-gram that no reference has counts as if one image had it."""
    weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(LONGEST))
    squares = [0.0] * LONGEST
    for ngram, count in counts.items():
        weight = count * (log_images - math.log(max(1, frequency[ngram])))
        weights[len(ngram) - 1][ngram] = weight
        squares[len(ngram) - 1] += weight**2
    bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return Vector(weights, tuple(math.sqrt(square) for square in squares), bigrams)


def similarity(given: Vector, expected: Vector) -> float:
    """Clipped cosine of two captions summed over n-gram lengths, less where the lengths differ."""
    penalty = math.exp(-((given.length - expected.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for size in range(LONGEST):
        theirs = expected.weights[size]
        common = given.weights[size].items()
        product = sum(
            min(w, theirs.get(ngram, 0.0)) * theirs.get(ngram, 0.0) for ngram, w in common
        )
        norm = given.norms[size] * expected.norms[size]
        total += (product / norm if norm else product) * penalty
    return total
