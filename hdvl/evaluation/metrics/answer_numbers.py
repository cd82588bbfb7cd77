"""Extraction of numbers and key phrases from free text, shared by the parsers of MMMU and CMMMU."""

import re
from collections.abc import Sequence

PUNCTUATION = {":", ",", ".", "!", "?", ";", "'"}
SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")


def number_of(text: str) -> float | None:
    """Return the number that ``text`` is without its commas, rounded to two decimals, or ``None``."""
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


def all_numbers(text: str, grouped: re.Pattern[str], simple: re.Pattern[str]) -> list[str]:
    """Return the numbers in ``text``: first those with thousands separators, then scientific, then plain."""
    return [*grouped.findall(text), *SCIENTIFIC.findall(text), *simple.findall(text)]


def key_phrases(response: str, sentences: Sequence[str], indicators: Sequence[str]) -> list[str]:
    """Return for each sentence the shortest text that follows an indicator word.

    In the last sentence "=" is an indicator too if it is the last of ``indicators``, as for open
    questions. If no sentence has an indicator, the whole response is returned.
    """
    phrases = []
    for number, sentence in enumerate(sentences):
        last = number == len(sentences) - 1
        words = [word for word in indicators if last or word != "="]
        tails = [sentence.split(word)[-1].strip() for word in words if word in sentence]
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in PUNCTUATION:
            phrases.append(shortest)
    return phrases or [response]


def holds_answer(parsed: Sequence[str | float], expected: Sequence[str | float]) -> bool:
    """Return whether a parsed text contains an expected text, or a parsed number equals an expected one."""
    texts = [one for one in expected if isinstance(one, str)]
    for one in parsed:
        if isinstance(one, str):
            if any(text in one for text in texts):
                return True
        elif one in expected:
            return True
    return False
