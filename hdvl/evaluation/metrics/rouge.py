"""ROUGE-L of tokenised captions: the F-score of the best precision and recall over the references."""

from collections.abc import Mapping, Sequence

from rapidfuzz.distance import LCSseq

BETA = 1.2


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return ROUGE-L of one caption; words are split at single spaces, so that empty text is one word."""
    words = prediction.split(" ")
    precision = recall = 0.0
    for reference in references:
        reference_words = reference.split(" ")
        common = LCSseq.similarity(words, reference_words)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(reference_words))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def mean_rouge_l(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """Mean of ROUGE-L over the images."""
    scores = [rouge_l(text, references[key]) for key, text in predictions.items()]
    return sum(scores) / len(scores)
