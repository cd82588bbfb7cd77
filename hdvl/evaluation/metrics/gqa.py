"""GQA: exact match on the balanced questions, by type and length, with the distribution score.

The scores of validity, plausibility and grounding are not computed, because they need files that are not
published for testdev. The public scorer prints 0 for the first two.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

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


def per_cent(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores) if scores else 0.0


def consistency_of(
    name: str, questions: Mapping[str, GQAQuestion], predictions: Mapping[str, str]
) -> float | None:
    """Return the share of correct answers among the questions that the correct answer to ``name`` entails."""
    question = questions[name]
    asked = [other for other in question["entailed"] if other in questions and other != name]
    others = [other for other in asked if other in predictions]
    if predictions[name] != question["answer"] or not others:
        return None
    return sum(predictions[other] == questions[other]["answer"] for other in others) / len(others)


def chi_square(
    gold: Mapping[str, Mapping[str, int]], given: Mapping[str, Mapping[str, int]]
) -> float:
    """Chi-square statistic of the answers of each group, averaged over the questions."""
    total = weight = 0.0
    for group, counts in gold.items():
        found = given.get(group, {})
        score = sum((found.get(one, 0) - count) ** 2 / count for one, count in counts.items())
        total += score * sum(counts.values())
        weight += sum(counts.values())
    return total / weight


def refuse_missing(questions: Mapping[str, GQAQuestion], predictions: Mapping[str, str]) -> None:
    """Raise when a balanced question has no prediction, as the official code does."""
    missing = [key for key in questions if questions[key]["isBalanced"] and key not in predictions]
    if missing:
        raise ValueError(
            f"GQA needs a prediction for every balanced question, got none for {listed(missing)}; "
            "add them, or leave the questions out"
        )


def score_gqa(questions: Mapping[str, GQAQuestion], predictions: Mapping[str, str]) -> GQAScore:
    """Score the balanced questions, each of which needs a prediction."""
    refuse_missing(questions, predictions)
    scores: dict[tuple[str, str | int], list[float]] = defaultdict(list)
    consistency: list[float] = []
    gold: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    given: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, question in questions.items():
        if not question["isBalanced"]:
            continue
        answer, prediction, types = question["answer"], predictions[name], question["types"]
        kinds: list[tuple[str, str | int]] = [
            ("all", ""),
            ("kind", "open" if types["structural"] == "query" else "binary"),
            ("structural", types["structural"]),
            ("semantic", types["semantic"]),
            ("steps", steps_of(question)),
            ("words", len(question["question"].split())),
        ]
        for kind in kinds:
            scores[kind].append(float(prediction == answer))
        group = question["groups"]["global"]
        if group is not None:
            gold[group][answer] += 1
            given[group][prediction] += 1
        share = consistency_of(name, questions, predictions)
        consistency += [] if share is None else [share]

    def table(kind: str) -> dict[str | int, float]:
        return {name: per_cent(found) for (of, name), found in scores.items() if of == kind}

    return GQAScore(
        accuracy=per_cent(scores[("all", "")]),
        binary=per_cent(scores[("kind", "binary")]),
        open=per_cent(scores[("kind", "open")]),
        consistency=per_cent(consistency) if consistency else None,
        distribution=chi_square(gold, given) / 100 if gold else None,
        structural={str(name): value for name, value in table("structural").items()},
        semantic={str(name): value for name, value in table("semantic").items()},
        steps={int(name): value for name, value in table("steps").items()},
        words={int(name): value for name, value in table("words").items()},
    )
