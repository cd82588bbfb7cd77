"""Equality apart from case and from white space or punctuation."""

import string
from collections.abc import Sequence


def exact_match(answers: Sequence[str], prediction: str) -> bool:
    """Whether ``prediction`` is one of ``answers``, apart from case and white space at the ends."""
    given = prediction.strip().lower()
    return any(answer.strip().lower() == given for answer in answers)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match_lmms_eval(answers: Sequence[str], prediction: str) -> bool:
    """Whether ``prediction`` is one of ``answers``, apart from case and punctuation, as in lmms-eval."""
    given, *expected = (text.lower().translate(_NO_PUNCTUATION) for text in (prediction, *answers))
    return given in expected
