"""The option a response means, as VLMEvalKit infers it without a judge.

MMBench, CCBench and every multiple-choice set of VLMEvalKit are scored with it. A response that no
rule reads counts as wrong there; "Z" stands for a refusal.
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
TAIL = 5  # an option letter counts among the last words only


def infer_option(response: str, choices: Mapping[str, object]) -> str | None:
    """The one option letter among the last words, or one that "answer is" introduces."""
    if FAILED_CALL in response:
        return None
    if any(refusal in response for refusal in REFUSALS):
        return REFUSED
    words = response.translate(MARKS).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - TAIL:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    stated = STATED.search(response)
    letter = stated[1].upper() if stated else ""
    return letter if letter in choices else None


def infer_text(response: str, choices: Mapping[str, object]) -> str | None:
    """The one option whose text the response holds, unless the response is long."""
    lowered = response.lower()
    texts = {letter: str(text) for letter, text in choices.items()}
    if len(lowered) > 2 * sum(len(text) for text in texts.values()):
        return None
    held = [letter for letter, text in texts.items() if text.lower() in lowered]
    return held[0] if len(held) == 1 else None


def can_infer(response: object, choices: Mapping[str, object]) -> str | None:
    """The letter of the option a response means, "Z" for a refusal, None if it cannot be told."""
    text = str(response)
    return infer_option(text, choices) or infer_text(text, choices)
