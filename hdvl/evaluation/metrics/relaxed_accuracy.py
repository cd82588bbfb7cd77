"""Relaxed accuracy of ChartQA: numbers may be off by 5 %, everything else must be equal."""

from collections.abc import Sequence

TOLERANCE = 0.05


def as_number(text: str) -> float | None:
    """Return the number that a text is, with percentages divided by 100; ``None`` for other text."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_correct(target: str, prediction: str, tolerance: float = TOLERANCE) -> bool:
    """Return whether ``prediction`` is right by pix2struct's rule: relative to a target that is not zero."""
    expected, given = as_number(target), as_number(prediction)
    if given is not None and expected:
        return abs(given - expected) / abs(expected) <= tolerance
    return prediction.lower() == target.lower()


def relaxed_correct_swapped(target: str, prediction: str, tolerance: float = TOLERANCE) -> bool:
    """As in Qwen-VL, which swaps the arguments, so that the error is relative to the prediction."""
    return relaxed_correct(prediction.strip(), target, tolerance)


def relaxed_accuracy(
    targets: Sequence[Sequence[str]], predictions: Sequence[str], *, swapped: bool = False
) -> float:
    """Return the share of right answers; ``swapped`` selects the argument order of Qwen-VL."""
    correct = relaxed_correct_swapped if swapped else relaxed_correct
    pairs = zip(targets, predictions, strict=True)
    hits = [any(correct(target, given) for target in expected) for expected, given in pairs]
    return sum(hits) / len(hits)
