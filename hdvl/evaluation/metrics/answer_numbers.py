"""Numbers and key phrases in free text, the part that the MMMU and CMMMU parsers share."""

import re
from collections.abc import Sequence

TRIVIAL = {":", ",", ".", "!", "?", ";", "'"}
SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")


def number_of(text: str) -> float | None:
    """The number ``text`` spells once commas are out, rounded to two decimals; None if none."""
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


def all_numbers(text: str, grouped: re.Pattern[str], simple: re.Pattern[str]) -> list[str]:
    """Numbers written in thousands groups, in scientific notation, and plainly."""
    return [*grouped.findall(text), *SCIENTIFIC.findall(text), *simple.findall(text)]


def key_phrases(response: str, sentences: Sequence[str], indicators: Sequence[str]) -> list[str]:
    """What follows the indicator words: of each sentence the shortest tail.

    In the last sentence "=" is an indicator too when ``indicators`` are those of an open question
    and include it as their last entry. Without any phrase the whole response is returned.
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
        if shortest and shortest not in TRIVIAL:
            phrases.append(shortest)
    return phrases or [response]


def holds_answer(parsed: Sequence[str | float], expected: Sequence[str | float]) -> bool:
    """Whether a parsed text contains an expected text, or a parsed number is an expected number."""
    texts = [one for one in expected if isinstance(one, str)]
    for one in parsed:
        if isinstance(one, str):
            if any(text in one for text in texts):
                return True
        elif one in expected:
            return True
    return False
