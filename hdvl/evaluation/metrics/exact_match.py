"""Equality after lower case and stripping: OCR-VQA and AI2D."""

from collections.abc import Sequence


def exact_match(answers: Sequence[str], prediction: str) -> bool:
    """Whether ``prediction`` is one of ``answers``, apart from case and white space at the ends."""
    given = prediction.strip().lower()
    return any(answer.strip().lower() == given for answer in answers)
