"""Test questions with known answers, which are read from a JSON file, asked, and judged."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdvl.inference.answer import Answer
from hdvl.inference.pipeline import Pipeline
from hdvl.protocols import Box

KEYS = {"image", "question", "answer", "box"}
MIN_IOU = 0.5
"""A box counts as right if its overlap with the true one is at least this."""


@dataclass(frozen=True)
class Case:
    """A question about one image or several, and the correct answer; with ``box`` a box is asked for."""

    images: tuple[Path, ...]
    question: str
    truth: str
    box: Box | None = None


@dataclass(frozen=True)
class Outcome:
    """A case, the answer of the model, and whether it is right."""

    case: Case
    answer: Answer
    right: bool


def read_cases(path: Path) -> list[Case]:
    """Read the cases of a JSON list of {image, question, answer, box?}; images are in the same folder.

    ``image`` is a file name or a list of file names, ``box`` is [x0, y0, x1, y1] in pixels of the first.

    Raises:
        ValueError: there is no such file, or an entry has other keys.
    """
    if not path.is_file():
        raise ValueError(f"questions must be a JSON file, got {str(path)!r}, which is no file")
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"questions in {str(path)!r} must be a list with at least one entry")
    return [_case(row, path, number) for number, row in enumerate(rows, 1)]


def _case(row: dict[str, Any], path: Path, number: int) -> Case:
    missing, surplus = KEYS - {"box"} - set(row), set(row) - KEYS
    if missing or surplus:
        raise ValueError(
            f"question {number} of {str(path)!r} must have image, question, answer and maybe box; "
            f"missing: {sorted(missing)}, surplus: {sorted(surplus)}"
        )
    names = row["image"] if isinstance(row["image"], list) else [row["image"]]
    box = row.get("box")
    if box is not None and len(box) != 4:
        raise ValueError(f"question {number} of {str(path)!r}: box must be 4 numbers, got {box}")
    return Case(
        images=tuple(path.parent / name for name in names),
        question=row["question"],
        truth=row["answer"],
        box=None if box is None else (box[0], box[1], box[2], box[3]),
    )


def ask_cases(pipe: Pipeline, cases: Sequence[Case], **generation: Any) -> Iterator[Outcome]:
    """Yield the outcome of each case."""
    for case in cases:
        answer = pipe.chat(case.question, images=list(case.images), **generation)
        yield Outcome(case, answer, is_right(case, answer))


def is_right(case: Case, answer: Answer) -> bool:
    """Return whether the first box overlaps the true one enough, or the text is equal except for spaces."""
    if case.box is None:
        return _bare(answer.text) == _bare(case.truth)
    return bool(answer.boxes) and overlap(answer.boxes[0].box, case.box) >= MIN_IOU


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes.

    >>> overlap((0, 0, 10, 10), (5, 0, 15, 10))
    0.3333333333333333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0
