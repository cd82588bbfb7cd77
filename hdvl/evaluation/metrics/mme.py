"""MME: yes or no from the first four characters, accuracy and accuracy+ of pairs, summed to 2,800."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Answer = Literal["yes", "no", "other"]
Row = tuple[str, str, str, str]  # image, question, answer, prediction
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PREFIX_LENGTH = 4  # number of characters of a prediction that are searched


def parse_mme(prediction: str) -> Answer:
    """Return "yes", "no" or "other".

    Only the first characters are searched, and "none" and "know" contain "no", as in the official code.
    """
    start = prediction.lower()[:PREFIX_LENGTH]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def parse_mme_lmms_eval(prediction: str) -> Answer:
    """As :func:`parse_mme` without white space and periods, and with the single letters y and n."""
    text = prediction.lower().strip().replace(".", "")
    single: dict[str, Answer] = {"y": "yes", "n": "no"}
    return single[text] if text in single else parse_mme(text)


@dataclass(frozen=True)
class TaskScore:
    """Accuracy of questions, accuracy of images (both questions right), and the number of other answers."""

    accuracy: float
    accuracy_plus: float
    other: int

    @property
    def score(self) -> float:
        """Up to 200 points."""
        return 100 * self.accuracy + 100 * self.accuracy_plus


@dataclass
class MMEScore:
    """The score of each task, their sums, and the missing tasks."""

    tasks: dict[str, TaskScore]
    missing: list[str] = field(default_factory=list)

    def total(self, names: Sequence[str]) -> float:
        """Sum over those of ``names`` that were scored."""
        return sum(self.tasks[name].score for name in names if name in self.tasks)

    @property
    def perception(self) -> float:
        """Up to 2,000 points."""
        return self.total(PERCEPTION)

    @property
    def cognition(self) -> float:
        """Up to 800 points."""
        return self.total(COGNITION)


def score_task(rows: Sequence[Row], name: str = "MME") -> TaskScore:
    """Score the rows of one task, of which each two consecutive ones belong to the same image."""
    if not rows or len(rows) % 2:
        raise ValueError(
            f"{name} needs two rows for each image, one after the other, got {len(rows)} rows; "
            "restore the rows that are missing"
        )
    parsed = [parse_mme(row[3]) for row in rows]
    for row in rows:
        if row[2].lower() not in {"yes", "no"}:
            raise ValueError(f"answers of {name} must be yes or no, got {row[2]!r} for {row[0]}")
    hits = [row[2].lower() == given for row, given in zip(rows, parsed, strict=True)]
    both = [first and second for first, second in zip(hits[::2], hits[1::2], strict=True)]
    return TaskScore(sum(hits) / len(hits), sum(both) / len(both), parsed.count("other"))


def score_mme(tasks: Mapping[str, Sequence[Row]]) -> MMEScore:
    """Score every task of ``tasks``, which maps the official names to rows."""
    scored = {name: score_task(rows, name) for name, rows in tasks.items()}
    return MMEScore(scored, [name for name in PERCEPTION + COGNITION if name not in tasks])
