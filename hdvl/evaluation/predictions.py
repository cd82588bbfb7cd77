"""Files of predictions as official scorers, LLaVA, VLMEvalKit and EvalAI write them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.evaluation.metrics.joining import Joined, Rules, join
from hdvl.evaluation.metrics.official_rules import RULES
from hdvl.evaluation.rows import read_plain, read_rows
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.task import Task

IDS = ("question_id", "questionId", "Question_id", "index", "image_id", "id", "pid", "image")
ANSWERS = ("prediction", "answer", "text", "response", "caption", "Output", "output", "generated")
"""Names of the fields that hold the id and the answer, the first that a row has being used.

``prediction`` stands before ``answer``, which is the truth in the tables of VLMEvalKit.
"""


def read_predictions(path: Path) -> list[tuple[str, object]]:
    """(id, answer) of each row of JSON, JSONL, TSV, CSV or XLSX; a JSON mapping from id to answer too.

    An answer may be no text, as the empty cell of a table, which is None.

    Raises:
        ValueError: a row has no field for the id or for the answer.
    """
    if path.suffix.lower() == ".json":
        value = read_plain(path)
        if isinstance(value, Mapping):
            return [(str(name), _of_mapping(answer)) for name, answer in value.items()]
    return list(_pairs(path))


def _of_mapping(answer: Any) -> object:
    if isinstance(answer, Mapping):  # MathVista and MMMU keep the problem beside the response
        return next((answer[name] for name in ("response", *ANSWERS) if name in answer), None)
    return answer


def _pairs(path: Path) -> Iterator[tuple[str, object]]:
    for number, row in enumerate(read_rows(path)):
        name = next((row[key] for key in IDS if row.get(key) is not None), None)
        if name is None:
            raise ValueError(
                f"row {number} of {path} must have an id in one of {', '.join(IDS)}, got the fields "
                f"{', '.join(row)}"
            )
        key = next((key for key in ANSWERS if key in row), None)
        if key is None:
            raise ValueError(
                f"row {number} of {path} must have an answer in one of {', '.join(ANSWERS)}, got the "
                f"fields {', '.join(row)}"
            )
        yield _text_of_id(name), row[key]


def _text_of_id(value: object) -> str:
    """An id as text; a table may have turned 12 into 12.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def joined(
    task: Task,
    samples: Sequence[Sample],
    predictions: Sequence[tuple[str, object]],
    *,
    partial: bool = False,
) -> Joined[str]:
    """The answers to score, by the rules of the official scorer, and what was wrong with the file.

    Raises:
        ValueError: the official scorer would refuse the file, and ``partial`` is false.
    """
    rules = RULES[task.rules] if task.rules else Rules(task.name)
    return join([sample.id for sample in samples], predictions, rules, partial=partial)
