"""GQA: exact match on the balanced questions, by type and length, with the distribution score.

The scores of validity, plausibility and grounding are not computed, because they need files that are not
published for testdev. The public scorer prints 0 for the first two.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from hdvl.evaluation.metrics.joining import listed

NOT_STEPS = ("exist", "query: name", "choose name")  # the last operation is not a reasoning step


class Operation(TypedDict):
    operation: str
    argument: str


class GQAQuestion(TypedDict):
    """The keys of a question file that the scorer uses."""

    question: str
    answer: str
    isBalanced: bool
    types: Mapping[str, str]
    groups: Mapping[str, str | None]
    semantic: Sequence[Operation]
    entailed: Sequence[str]


@dataclass
class GQAScore:
    """Percentages of correct answers; a lower ``distribution`` is better.

    ``consistency`` is ``None`` if no correct answer entails another question that was asked, and
    ``distribution`` is ``None`` if no question has a group.
    """

    accuracy: float
    binary: float
    open: float
    consistency: float | None
    distribution: float | None
    structural: dict[str, float]
    semantic: dict[str, float]
    steps: dict[int, float]
    words: dict[int, float]


def llava_answer(text: str) -> str:
    """An answer as LLaVA's converter writes it: periods at the end removed, lower case."""
    return text.rstrip(".").lower()


def steps_of(question: GQAQuestion) -> int:
    """Reasoning steps of a question."""
    names = [f"{one['operation']}: {one['argument']}" for one in question["semantic"]]
    return sum(not any(word in name for word in NOT_STEPS) for name in names)


def refuse_missing(questions: Mapping[str, GQAQuestion], predictions: Mapping[str, str]) -> None:
    """Raise when a balanced question has no prediction, as the official code does."""
    missing = [key for key in questions if questions[key]["isBalanced"] and key not in predictions]
    if missing:
        raise ValueError(
            f"GQA needs a prediction for every balanced question, got none for {listed(missing)}; "
            "add them, or leave the questions out"
        )


class GQATotals:
    """What the scores need of the questions that were added: some numbers of each, and no text.

    Texts are kept as hashes, of which two of a million are equal by chance in one of 10^7 cases.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str | int], list[int]] = defaultdict(lambda: [0, 0])
        # Hashes of the group, and of the group with the answer and with the prediction, of each question
        # with a group.
        self._groups, self._gold, self._given = array("q"), array("q"), array("q")
        # The hash of the id of each question, and whether it was answered right.
        self._ids, self._right = array("q"), array("b")
        # For each question that a right answer entails: which right answer it was, and the hash of its id.
        self._owners, self._entailed, self._consequences = array("q"), array("q"), 0

    def add(self, name: str, question: GQAQuestion, prediction: str) -> None:
        """Count the prediction for a question; one that is not balanced counts for consistency only."""
        right = prediction == question["answer"]
        self._ids.append(hash(name))
        self._right.append(right)
        if not question["isBalanced"]:
            return
        types = question["types"]
        kinds: tuple[tuple[str, str | int], ...] = (
            ("all", ""),
            ("kind", "open" if types["structural"] == "query" else "binary"),
            ("structural", types["structural"]),
            ("semantic", types["semantic"]),
            ("steps", steps_of(question)),
            ("words", len(question["question"].split())),
        )
        for kind in kinds:
            count = self._counts[kind]
            count[0] += right
            count[1] += 1
        group = question["groups"]["global"]
        if group is not None:
            self._groups.append(hash(group))
            self._gold.append(hash((group, question["answer"])))
            self._given.append(hash((group, prediction)))
        if right:
            others = [hash(other) for other in question["entailed"] if other != name]
            self._entailed.extend(others)
            self._owners.extend([self._consequences] * len(others))
            self._consequences += 1

    def _consistency(self) -> float | None:
        """The mean share of right answers among the questions that each right answer entails."""
        if not len(self._entailed):
            return None
        order = np.argsort(self._ids)
        ids = np.frombuffer(self._ids, np.int64)[order]
        right = np.frombuffer(self._right, np.int8)[order]
        entailed = np.frombuffer(self._entailed, np.int64)
        places = np.minimum(np.searchsorted(ids, entailed), len(ids) - 1)
        asked = ids[places] == entailed
        owners = np.frombuffer(self._owners, np.int64)
        counts = np.bincount(owners, asked)
        hits = np.bincount(owners, asked & (right[places] == 1))
        shares = hits[counts > 0] / counts[counts > 0]
        return 100 * float(shares.mean()) if len(shares) else None

    def _distribution(self) -> float | None:
        """Chi-square statistic of the answers of each group, averaged over the questions, by 100."""
        if not len(self._gold):
            return None
        gold, first, expected = np.unique(self._gold, return_index=True, return_counts=True)
        given, counts = np.unique(self._given, return_counts=True)
        places = np.minimum(np.searchsorted(given, gold), len(given) - 1)
        found = np.where(given[places] == gold, counts[places], 0)
        _, groups = np.unique(np.frombuffer(self._groups, np.int64)[first], return_inverse=True)
        statistics = np.bincount(groups, (found - expected) ** 2 / expected)
        weights = np.bincount(groups, expected)
        return float((statistics * weights).sum() / weights.sum()) / 100

    def _per_cent(self, kind: str, name: str | int = "") -> float:
        right, asked = self._counts.get((kind, name), (0, 0))
        return 100 * right / asked if asked else 0.0

    def score(self) -> GQAScore:
        """The scores of the questions so far."""

        def table(kind: str) -> dict[str | int, float]:
            names = [name for of, name in self._counts if of == kind]
            return {name: self._per_cent(kind, name) for name in names}

        return GQAScore(
            accuracy=self._per_cent("all"),
            binary=self._per_cent("kind", "binary"),
            open=self._per_cent("kind", "open"),
            consistency=self._consistency(),
            distribution=self._distribution(),
            structural={str(name): value for name, value in table("structural").items()},
            semantic={str(name): value for name, value in table("semantic").items()},
            steps={int(name): value for name, value in table("steps").items()},
            words={int(name): value for name, value in table("words").items()},
        )


def score_gqa(questions: Mapping[str, GQAQuestion], predictions: Mapping[str, str]) -> GQAScore:
    """Score the balanced questions, each of which needs a prediction."""
    refuse_missing(questions, predictions)
    totals = GQATotals()
    for name, question in questions.items():
        if name in predictions:
            totals.add(name, question, predictions[name])
    return totals.score()
