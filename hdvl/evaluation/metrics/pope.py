"""POPE: whether an object is in an image. Predictions without "no" in the first sentence count as yes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NO = {"No", "not", "no"}


def parse_pope(prediction: str) -> Literal["yes", "no"]:
    """Return whether a prediction means yes; "NO", "None" and empty text do in the official code."""
    first = prediction.split(".")[0].replace(",", "")
    return "no" if NO.intersection(first.split(" ")) else "yes"


@dataclass(frozen=True)
class PopeScore:
    """The confusion matrix and the scores computed from it; "yes" is the positive class."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def accuracy(self) -> float:
        return ratio(self.true_positive + self.true_negative, self.total)

    @property
    def precision(self) -> float:
        return ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    @property
    def yes_ratio(self) -> float:
        """Share of the predictions that are yes."""
        return ratio(self.true_positive + self.false_positive, self.total)

    @property
    def total(self) -> int:
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    @property
    def undefined(self) -> list[str]:
        """The names of scores for which the official code divides by zero; they are 0 here."""
        names = []
        if not self.true_positive + self.false_positive:
            names.append("precision")
        if not self.true_positive + self.false_negative:
            names.append("recall")
        return [*names, "f1"] if not self.true_positive else names


def ratio(part: int, total: int) -> float:
    return part / total if total else 0.0


def score_pope(predictions: Sequence[str], labels: Sequence[str]) -> PopeScore:
    """Score predictions in the order of their labels; a label other than "no" is yes."""
    if len(predictions) != len(labels):
        raise ValueError(
            f"POPE pairs predictions with labels by their order, got {len(predictions)} "
            f"predictions and {len(labels)} labels; give one prediction for each label"
        )
    pairs = [
        (parse_pope(one), label != "no") for one, label in zip(predictions, labels, strict=True)
    ]
    return PopeScore(
        true_positive=pairs.count(("yes", True)),
        false_positive=pairs.count(("yes", False)),
        true_negative=pairs.count(("no", False)),
        false_negative=pairs.count(("no", True)),
    )
