"""ScienceQA as scored by LLaVA: an answer is a letter, "A. ", or a single "The answer is A"."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LETTERS = ("A", "B", "C", "D", "E")
SENTENCE = re.compile(
    "The answer is ([A-Z])."
)  # as published, the last period matches any character
FAILED = -1


def parse_scienceqa(text: str, choices: int) -> int:
    """Index of the choice that ``text`` names; -1 if none of the first ``choices`` letters."""
    letter = ""
    if text in LETTERS or (len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". "):
        letter = text[0]
    else:
        found = SENTENCE.findall(text)
        letter = found[0] if len(found) == 1 else ""
    known = LETTERS[:choices]
    return known.index(letter) if letter in known else FAILED


@dataclass(frozen=True)
class ScienceQAScore:
    """Percentages of right answers for all questions and those with an image, and the unparsed ids."""

    accuracy: float
    image_accuracy: float
    correct: int
    total: int
    unparsed: tuple[str, ...]


@dataclass(frozen=True)
class ScienceQAProblem:
    """A question: its choices, the index of the right one, and whether it shows an image."""

    choices: Sequence[str]
    answer: int
    image: bool = False


def score_scienceqa(
    problems: Mapping[str, ScienceQAProblem], predictions: Mapping[str, str]
) -> ScienceQAScore:
    """Score every problem; a problem without a prediction counts as wrong, as in the official script."""
    parsed = {
        key: parse_scienceqa(predictions.get(key, ""), len(problem.choices))
        for key, problem in problems.items()
    }
    hits = {key: parsed[key] == problem.answer for key, problem in problems.items()}
    return ScienceQAScore(
        accuracy=per_cent(hits.values()),
        image_accuracy=per_cent(hit for key, hit in hits.items() if problems[key].image),
        correct=sum(hits.values()),
        total=len(hits),
        unparsed=tuple(key for key, index in parsed.items() if index == FAILED),
    )


def per_cent(hits: Iterable[bool]) -> float:
    found = list(hits)
    return 100 * sum(found) / len(found) if found else 0.0
