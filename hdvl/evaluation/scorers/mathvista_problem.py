"""The problem of MathVista that a question holds."""

from collections.abc import Mapping
from typing import Any

from hdvl.evaluation.metrics.mathvista import MathVistaProblem
from hdvl.evaluation.samples import Sample


def problem_of(sample: Sample) -> MathVistaProblem:
    """The problem as its file states it."""
    row: Mapping[str, Any] = sample.extra["problem"]
    return MathVistaProblem(
        str(row["question_type"]),
        str(row["answer_type"]),
        str(row["answer"]),
        row.get("choices"),
        row.get("precision"),
        row.get("metadata") or {},
    )
