"""MathVista: answers found without a judge, normalised to the answer type, compared exactly."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

QUOTED = re.compile(r'The answer is "(.*)"\.')
BRACKETED = re.compile(r"\(([a-zA-Z])\)")


@dataclass(frozen=True)
class MathVistaProblem:
    """A problem of the data set; scores are reported for each group in ``metadata``."""

    question_type: str
    answer_type: str
    answer: str
    choices: Sequence[str] | None = None
    precision: float | None = None
    metadata: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def quick_extraction(response: str, problem: MathVistaProblem) -> str | None:
    """Return the answer of a response by rules; ``None`` if the official code asks a judge."""
    if response == "":
        return ""
    if problem.question_type == "multi_choice" and response in (problem.choices or ()):
        return response
    try:
        if problem.answer_type == "integer":
            return str(int(response))
        if problem.answer_type == "float":
            return str(float(response))
    except ValueError:
        pass  # the response is more than a number: look for the sentence
    found = QUOTED.search(response)
    return found[1] if found else None


def normalised_answer(extraction: object, problem: MathVistaProblem) -> str | None:
    """Return the extraction as a choice, an integer, a rounded number or a list, or ``None``.

    An extraction that is neither a capital letter nor a letter in brackets becomes the choice with the
    smallest edit distance, so that an empty extraction becomes the shortest choice.
    """
    if problem.question_type == "multi_choice":
        return nearest_choice(str(extraction).strip(), problem.choices or ())
    if problem.answer_type == "list":
        return str(extraction)
    text = extraction if isinstance(extraction, str | int | float) else ""
    try:
        if problem.answer_type == "integer":
            return str(int(float(text)))
        if problem.answer_type == "float" and problem.precision is not None:
            return str(round(float(text), int(problem.precision)))
    except (ValueError, OverflowError):
        return None
    return None


def nearest_choice(extraction: str, choices: Sequence[str]) -> str:
    """Return the choice that a letter names, otherwise the first one with the smallest edit distance."""
    if not choices:
        raise ValueError("a multi_choice problem needs choices, got none; read them from the data")
    letters = BRACKETED.findall(extraction)
    if letters:
        extraction = letters[0].upper()
    names = [chr(ord("A") + place) for place in range(len(choices))]
    if extraction in names:
        return choices[names.index(extraction)]
    return min(choices, key=lambda choice: Levenshtein.distance(extraction, choice))


def mathvista_correct(extraction: object, problem: MathVistaProblem) -> bool:
    """Whether the normalised extraction equals the answer."""
    return normalised_answer(extraction, problem) == problem.answer


@dataclass
class MathVistaScore:
    """Accuracy over all problems and for each value of each metadata key."""

    accuracy: float
    groups: dict[str, dict[str, float]]


def score_mathvista(rows: Iterable[tuple[MathVistaProblem, object]]) -> MathVistaScore:
    """Score (problem, extraction) rows; a skill counts for every problem that lists it."""
    hits: Counter[tuple[str, str]] = Counter()
    totals: Counter[tuple[str, str]] = Counter()
    for problem, extraction in rows:
        correct = mathvista_correct(extraction, problem)
        keys = {("", ""), ("question_type", problem.question_type)}
        keys.add(("answer_type", problem.answer_type))
        for name, value in problem.metadata.items():
            keys |= {(name, one) for one in ([value] if isinstance(value, str) else value)}
        for key in keys:
            hits[key] += correct
            totals[key] += 1
    groups: dict[str, dict[str, float]] = {}
    for (name, value), total in totals.items():
        if name:
            groups.setdefault(name, {})[value] = hits[name, value] / total
    return MathVistaScore(hits["", ""] / max(1, totals["", ""]), groups)
