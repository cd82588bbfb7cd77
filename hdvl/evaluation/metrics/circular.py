"""CircularEval of MMBench and plain accuracy of CCBench, with exact matching, as VLMEvalKit scores.

A question of MMBench is asked once for each rotation of its options; rotation k has the index of the
question plus k million. A question counts if all of its rotations are answered correctly.
"""

import math
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hdvl.evaluation.metrics.option_inference import can_infer

ROTATION = 1_000_000
SHORT = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}


@dataclass(frozen=True)
class ChoiceRow:
    """One row of a prediction table."""

    index: int
    answer: str
    prediction: object
    choices: Mapping[str, object]
    category: str | None = None
    l2_category: str | None = None
    split: str = "none"

    @property
    def question(self) -> int:
        """Index of the question that this row is a rotation of."""
        return self.index % ROTATION

    @property
    def correct(self) -> bool:
        return can_infer(self.prediction, self.choices) == self.answer


@dataclass
class ChoiceScore:
    """Whether each question counts, its row, and the rotations whose question is missing."""

    hits: dict[int, int]
    rows: dict[int, ChoiceRow] = field(repr=False)
    orphans: list[int] = field(default_factory=list)
    unparsed: list[int] = field(default_factory=list)


def options_of(row: Mapping[str, object]) -> dict[str, object]:
    """The options of a table row: its columns A to Z that are not empty (None or NaN)."""
    found = {letter: row[letter] for letter in string.ascii_uppercase if letter in row}
    return {letter: text for letter, text in found.items() if not absent(text)}


def absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def score_vanilla(rows: Iterable[ChoiceRow]) -> ChoiceScore:
    """Score every row separately."""
    kept = {row.index: row for row in rows}
    hits = {index: int(row.correct) for index, row in kept.items()}
    return ChoiceScore(hits, kept, unparsed=unparsed_of(kept.values()))


def score_circular(rows: Iterable[ChoiceRow]) -> ChoiceScore:
    """Score each question by all its rotations; rotations whose first row is missing are ``orphans``."""
    groups: dict[int, list[ChoiceRow]] = defaultdict(list)
    for row in rows:
        groups[row.question].append(row)
    first = {row.index: row for group in groups.values() for row in group if is_first(row)}
    hits = {index: int(all(row.correct for row in groups[index])) for index in first}
    orphans = [row.index for key, group in groups.items() if key not in first for row in group]
    scored = [row for index in first for row in groups[index]]
    return ChoiceScore(hits, first, orphans, unparsed_of(scored))


def is_first(row: ChoiceRow) -> bool:
    return row.index == row.question


def unparsed_of(rows: Iterable[ChoiceRow]) -> list[int]:
    return [row.index for row in rows if can_infer(row.prediction, row.choices) is None]


def report(score: ChoiceScore) -> list[dict[str, str | float]]:
    """For each split the overall score and those of the categories; NaN where a split has none."""
    table: list[dict[str, str | float]] = []
    rows = list(score.rows.values())
    for split in dict.fromkeys(row.split for row in rows):
        line: dict[str, str | float] = {"split": split}
        line["Overall"] = mean_hit(score, [row for row in rows if row.split == split])
        for column in ("l2_category", "category"):
            for name in sorted({getattr(row, column) or "" for row in rows} - {""}):
                chosen = [
                    row for row in rows if row.split == split and getattr(row, column) == name
                ]
                line[SHORT.get(name, name)] = mean_hit(score, chosen)
        table.append(line)
    return table


def mean_hit(score: ChoiceScore, rows: Sequence[ChoiceRow]) -> float:
    hits = [score.hits[row.index] for row in rows]
    return sum(hits) / len(hits) if hits else math.nan
