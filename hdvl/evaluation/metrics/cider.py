"""CIDEr-D of tokenised captions.

The document frequencies are those of the references of all images that are scored. The scores of images
therefore depend on which others are scored, and the score of a single image is 0. Values are not
multiplied by 100, as they usually are in papers.
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
    """TF-IDF weights of a caption for each n-gram length, their norms, and its number of bigrams."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider_d(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Cider:
    """Score one tokenised caption per image against its tokenised references."""
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
    """Return the weights of a caption; n-grams that occur in no reference get the frequency of one image."""
    weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(LONGEST))
    squares = [0.0] * LONGEST
    for ngram, count in counts.items():
        weight = count * (log_images - math.log(max(1, frequency[ngram])))
        weights[len(ngram) - 1][ngram] = weight
        squares[len(ngram) - 1] += weight**2
    bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return Vector(weights, tuple(math.sqrt(square) for square in squares), bigrams)


def similarity(given: Vector, expected: Vector) -> float:
    """Return the clipped cosine similarity summed over n-gram lengths, reduced if the lengths differ."""
    penalty = math.exp(-((given.length - expected.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for size in range(LONGEST):
        reference_weights = expected.weights[size]
        common = given.weights[size].items()
        product = sum(
            min(w, reference_weights.get(ngram, 0.0)) * reference_weights.get(ngram, 0.0)
            for ngram, w in common
        )
        norm = given.norms[size] * expected.norms[size]
        total += (product / norm if norm else product) * penalty
    return total
