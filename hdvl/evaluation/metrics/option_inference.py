"""Inference of the option that a response means, as in VLMEvalKit without a judge.

VLMEvalKit scores MMBench, CCBench and all of its multiple-choice sets with it. A response that no rule
applies to counts as wrong; "Z" stands for a refusal.
"""

import re
from collections.abc import Mapping

FAILED_CALL = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED = "Z"
MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
STATED = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
LAST_WORDS = 5  # an option letter counts only among this many last words


def infer_option(response: str, choices: Mapping[str, object]) -> str | None:
    """Return the only option letter among the last words, or the one after "answer is"."""
    if FAILED_CALL in response:
        return None
    if any(refusal in response for refusal in REFUSALS):
        return REFUSED
    words = response.translate(MARKS).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - LAST_WORDS:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    stated = STATED.search(response)
    letter = stated[1].upper() if stated else ""
    return letter if letter in choices else None


def infer_text(response: str, choices: Mapping[str, object]) -> str | None:
    """Return the only option whose text the response contains, unless the response is long."""
    lowered = response.lower()
    texts = {letter: str(text) for letter, text in choices.items()}
    if len(lowered) > 2 * sum(len(text) for text in texts.values()):
        return None
    contained = [letter for letter, text in texts.items() if text.lower() in lowered]
    return contained[0] if len(contained) == 1 else None


def can_infer(response: object, choices: Mapping[str, object]) -> str | None:
    """Return the letter of the option that a response means, "Z" for a refusal, ``None`` if unknown."""
    text = str(response)
    return infer_option(text, choices) or infer_text(text, choices)
