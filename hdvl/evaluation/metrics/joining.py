"""Predictions paired with the questions of a benchmark; bad input is named and counted.

What an official scorer does with a prediction file that is not complete differs: some refuse it,
some count the missing answers as wrong, some leave them out. ``Rules`` says which.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

Key = TypeVar("Key", bound=Hashable)
SHOWN = 5  # ids that a message spells out


@dataclass(frozen=True)
class Rules:
    """What the official scorer of ``benchmark`` does with bad input."""

    benchmark: str
    missing: Literal["refuse", "skip", "empty"] = "refuse"
    duplicate: Literal["refuse", "last"] = "last"
    unknown: Literal["refuse", "ignore"] = "ignore"
    not_text: Literal["refuse", "str"] = "refuse"


@dataclass
class Problems(Generic[Key]):
    """The ids that were missing, given twice, unknown, or answered by something that is not text."""

    missing: list[Key] = field(default_factory=list)
    duplicate: list[Key] = field(default_factory=list)
    unknown: list[Key] = field(default_factory=list)
    not_text: list[Key] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many ids each kind of problem concerns."""
        return {kind: len(ids) for kind, ids in vars(self).items()}

    def lines(self) -> list[str]:
        """One line for each kind of problem that occurred, with its first ids."""
        return [f"{kind}: {listed(ids)}" for kind, ids in vars(self).items() if ids]


@dataclass
class Joined(Generic[Key]):
    """The answers to score, in the order of the questions, and what was wrong with the input."""

    answers: dict[Key, str]
    problems: Problems[Key]


def listed(ids: list[Key]) -> str:
    """The count of ``ids`` and the first few of them."""
    more = ", ..." if len(ids) > SHOWN else ""
    return f"{len(ids)} ({', '.join(repr(key) for key in ids[:SHOWN])}{more})"


def join(
    questions: Iterable[Key],
    predictions: Iterable[tuple[Key, object]],
    rules: Rules,
    *,
    partial: bool = False,
) -> Joined[Key]:
    """Pair ``predictions`` with ``questions`` under ``rules``.

    A prediction that is no text (None, or the NaN of an empty table cell) is written out with
    ``str`` where the official scorer does so, and otherwise counts as missing. With ``partial`` a
    file that the official scorer would refuse is scored for what it holds.
    """
    problems: Problems[Key] = Problems()
    given: dict[Key, str] = {}
    seen: set[Key] = set()
    known = dict.fromkeys(questions)
    for key, answer in predictions:
        if key not in known:
            problems.unknown.append(key)
            continue
        if key in seen:
            problems.duplicate.append(key)
        seen.add(key)
        if not isinstance(answer, str):
            problems.not_text.append(key)
            given.pop(key, None)
            if rules.not_text == "refuse":
                continue
        given[key] = str(answer)
    problems.missing = [key for key in known if key not in given]
    if not partial:
        refuse(problems, rules)
    if rules.missing == "empty":
        return Joined({key: given.get(key, "") for key in known}, problems)
    return Joined({key: given[key] for key in known if key in given}, problems)


def refuse(problems: Problems[Key], rules: Rules) -> None:
    """Raise where the official scorer would not score."""
    found = {kind: ids for kind, ids in vars(problems).items() if ids}
    bad = [f"{kind} {listed(found[kind])}" for kind in found if getattr(rules, kind) == "refuse"]
    if bad:
        raise ValueError(
            f"predictions of {rules.benchmark} must answer every question once with a text, got "
            f"{'; '.join(bad)}; correct the file, or pass partial=True to score what is there"
        )
