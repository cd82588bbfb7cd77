"""Pairing of predictions with the questions of a benchmark, with a report of bad input.

Official scorers treat incomplete prediction files differently: some refuse them, some count missing
answers as wrong, and some ignore the questions. ``Rules`` describes what each does.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Generic, Literal, TypeVar

Key = TypeVar("Key", bound=Hashable)
MAX_LISTED = 5  # number of ids that a message lists


@dataclass(frozen=True)
class Rules:
    """What the official scorer of ``benchmark`` does with bad input.

    Of several answers to a question the ``last`` counts once, or as often as there are answers
    (``repeat``), or ``each`` counts as if it were that to another question.
    """

    benchmark: str
    missing: Literal["refuse", "skip", "empty"] = "refuse"
    duplicate: Literal["refuse", "last", "repeat", "each"] = "last"
    unknown: Literal["refuse", "ignore"] = "ignore"
    not_text: Literal["refuse", "str"] = "refuse"


@dataclass
class Problems(Generic[Key]):
    """The ids that were missing, given twice, unknown, answered by what is no text, or by an empty text.

    A question whose only answer is no text is not counted as missing too.
    """

    missing: list[Key] = field(default_factory=list)
    duplicate: list[Key] = field(default_factory=list)
    unknown: list[Key] = field(default_factory=list)
    not_text: list[Key] = field(default_factory=list)
    empty: list[Key] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of ids of each kind of problem."""
        return {kind: len(ids) for kind, ids in vars(self).items()}

    def lines(self, counts: Mapping[str, int] | None = None) -> list[str]:
        """Return a line with the first ids for each kind of problem that occurred.

        ``counts`` gives the number of ids of each kind if not all of them are listed.
        """
        totals = counts or self.counts()
        return [f"{kind}: {listed(ids, totals[kind])}" for kind, ids in vars(self).items() if ids]


@dataclass
class Joined(Generic[Key]):
    """The answers to score, in the order of the questions, and the problems of the input.

    ``earlier`` are those that count besides the last, where several answers to a question count.
    """

    answers: dict[Key, str]
    problems: Problems[Key]
    earlier: list[tuple[Key, str]] = field(default_factory=list)


def listed(ids: list[Key], count: int | None = None) -> str:
    """Return a text with the number of ids, or ``count`` where not all are given, and the first of them."""
    more = ", ..." if len(ids) > MAX_LISTED else ""
    number = len(ids) if count is None else count
    return f"{number} ({', '.join(repr(key) for key in ids[:MAX_LISTED])}{more})"


def answer_text(answer: object, rules: Rules) -> str | None:
    """The text of an answer that is scored; ``None`` if it is not text and the official scorer refuses such.

    A number is its text as ``str`` writes it.
    """
    if is_text(answer) or rules.not_text == "str":
        return str(answer)
    return None


def is_text(answer: object) -> bool:
    """Whether an answer is a text, or a number, which any table or JSON file may make of one."""
    return isinstance(answer, str) or (isinstance(answer, Real) and math.isfinite(answer))


def join(
    questions: Iterable[Key],
    predictions: Iterable[tuple[Key, object]],
    rules: Rules,
    *,
    partial: bool = False,
) -> Joined[Key]:
    """Pair ``predictions`` with ``questions`` according to ``rules``.

    A prediction that is neither text nor a number (``None``, or the NaN of an empty table cell) is
    converted with ``str`` if the official scorer does so, and otherwise counts as missing. With
    ``partial``, a file that the official scorer would refuse is scored for the questions that it answers.
    """
    problems: Problems[Key] = Problems()
    given: dict[Key, str] = {}
    earlier: list[tuple[Key, str]] = []
    seen: set[Key] = set()
    known = dict.fromkeys(questions)
    for key, answer in predictions:
        if key not in known:
            problems.unknown.append(key)
            continue
        if key in seen:
            problems.duplicate.append(key)
        seen.add(key)
        text = answer_text(answer, rules)
        if not is_text(answer):
            problems.not_text.append(key)
        if rules.duplicate == "each":
            if text is not None and key in given:
                earlier.append((key, given[key]))
        else:
            given.pop(key, None)
        if text is not None:
            given[key] = text
    if rules.duplicate == "repeat":
        earlier = [(key, given[key]) for key in problems.duplicate if key in given]
    wrong = set(problems.not_text)
    problems.missing = [key for key in known if key not in given and key not in wrong]
    blank = {key for key, text in (*given.items(), *earlier) if not text.strip()}
    problems.empty = [key for key in known if key in blank]
    if not partial:
        refuse(problems, rules)
    if rules.missing == "empty":
        given = {key: given.get(key, "") for key in known}
    return Joined({key: given[key] for key in known if key in given}, problems, earlier)


def refuse(problems: Problems[Key], rules: Rules, counts: Mapping[str, int] | None = None) -> None:
    """Raise a ``ValueError`` if the official scorer would refuse the file.

    The message names the other problems too, since ids of another form are missing and unknown at once. For
    ``counts`` see :meth:`Problems.lines`.
    """
    totals = counts or problems.counts()
    found = {kind: ids for kind, ids in vars(problems).items() if ids}
    if any(getattr(rules, kind, None) == "refuse" for kind in found):  # no rule for empty texts
        said = "; ".join(f"{kind} {listed(ids, totals[kind])}" for kind, ids in found.items())
        raise ValueError(
            f"predictions of {rules.benchmark} must answer every question once with a text, got {said}; "
            "correct the file, or set partial=true to score the others"
        )
