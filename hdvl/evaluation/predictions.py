"""Files of predictions as official scorers, LLaVA, VLMEvalKit and EvalAI write them."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hdvl.evaluation.encoding import opened_text
from hdvl.evaluation.identifying import RowId
from hdvl.evaluation.json_stream import holds_mapping, json_pairs
from hdvl.evaluation.metrics.joining import Rules
from hdvl.evaluation.metrics.official_rules import RULES
from hdvl.evaluation.rows import DELIMITERS, jsonl_rows, read_rows, whole_number
from hdvl.evaluation.task import Task

IDS = (
    "question_id",
    "questionId",
    "Question_id",
    "example_id",
    "index",
    "image_id",
    "id",
    "pid",
    "image",
)
BOXES = "bboxes"
SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon"}
TABLES = (".tsv", ".csv", ".xlsx")
SUFFIXES = (".json", ".jsonl", *TABLES)
ANSWERS = (
    *("prediction", "predict", "model_prediction", "response", "answer", "text", "caption"),
    *("Output", "output", "generated", BOXES),
)
"""Names of the fields that hold the id and the answer, the first that a row has being used.

``answer`` is the correct answer in the tables of VLMEvalKit, which have ``prediction`` too, and in the rows
of MMVP, which have ``response``.
"""


def read_predictions(
    path: Path, row_id: RowId | None = None, *, folders: bool = False
) -> Iterator[tuple[str, object]]:
    """(id, answer) of each row of JSON, JSONL, TSV, CSV or XLSX; a JSON mapping from id to answer too.

    An answer may be no text, as the empty cell of a table, which is NaN.

    Args:
        path: the file, or the folder of MME's official tool with a text file for each task. A file that
            ends with ``.json`` may hold JSON lines, as those of POPE do.
        row_id: the id of a row where it is not in a field; see :mod:`hdvl.evaluation.identifying`.
        folders: whether ``path`` may be such a folder.

    Raises:
        ValueError: a row has no field for the id or for the answer, or there is no row.
    """
    if path.is_dir():
        if not folders:
            raise ValueError(f"predictions must be a file, {path} is a folder; name the file in it")
        pairs = _pairs(path, _mme_rows(path), row_id)
    elif path.suffix.lower() == ".json" and holds_mapping(path):
        if _holds_lines(path):
            pairs = _pairs(path, jsonl_rows(path), row_id)
        else:
            pairs = ((name, _of_mapping(path, name, answer)) for name, answer in json_pairs(path))
    else:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"predictions must end with one of {', '.join(SUFFIXES)}, got {str(path)!r}; save it as one"
            )
        pairs = _pairs(path, read_rows(path, stored_images=False), row_id)
    return _some(path, pairs)


def _some(path: Path, pairs: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    first = next(pairs, None)
    if first is None:
        raise ValueError(f"{path} must have a row with an id and an answer, it has none")
    yield first
    yield from pairs


def _holds_lines(path: Path) -> bool:
    """Whether the first line of a file is a whole mapping, and the next one begins another."""
    with opened_text(path) as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, ""), next(lines, "")
    if not second.startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _mme_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the files of a folder: image, question, truth and answer with tabs between them."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise ValueError(f"predictions must be a file, or a folder with TASK.txt, {folder} is none")
    for path in files:
        # str.splitlines would also split at characters such as U+2028, which answers may have.
        with opened_text(path) as lines:
            for number, line in enumerate(lines, 1):
                cells = line.rstrip("\n").split("\t")
                if len(cells) != 4:
                    raise ValueError(
                        f"line {number} of {path} must have 4 cells with tabs between them, got "
                        f"{len(cells)}; remove tabs and line breaks from the answers"
                    )
                image, asked, _, answer = cells
                yield {"task": path.stem, "image": image, "question": asked, "prediction": answer}


def _of_mapping(path: Path, name: str, answer: Any) -> object:
    if isinstance(answer, list) and any(isinstance(one, Mapping) for one in answer):
        raise ValueError(
            f"{path} must be a list of rows or a mapping from id to answer, it has a list of rows "
            f"under the key {name!r}; write that list alone into the file"
        )
    if isinstance(answer, Mapping):
        # MathVista and MMMU store the problem together with the response
        key = next((name for name in ANSWERS if name in answer), None)
        return None if key is None else _answer(key, answer[key])
    return answer


def _answer(key: str, value: Any) -> object:
    """The value of the field ``key``; a list of boxes as text."""
    return json.dumps(value) if key == BOXES and isinstance(value, list) else value


def _pairs(
    path: Path, rows: Iterable[Mapping[str, Any]], row_id: RowId | None
) -> Iterator[tuple[str, object]]:
    known: dict[tuple[str, ...], tuple[list[str], str | None]] = {}
    table = path.suffix.lower() in TABLES
    for number, row in enumerate(rows):
        fields = tuple(row)
        if fields not in known:  # rows of a file mostly have the same fields
            answered = next((key for key in ANSWERS if key in row), None)
            known[fields] = [key for key in IDS if key in row], answered
        ids, key = known[fields]
        name = row_id(number, row) if row_id is not None else None
        if name is None:
            name = next((row[one] for one in ids if row[one] not in ("", None)), None)
        if name is None:
            raise ValueError(
                f"row {number + 1} of {path} must have an id in one of {', '.join(IDS)}, got the fields "
                f"{', '.join(row)}{_where(path, row)}"
            )
        if key is None:
            raise ValueError(
                f"row {number + 1} of {path} must have an answer in one of {', '.join(ANSWERS)}, got the "
                f"fields {', '.join(row)}{_where(path, row)}"
            )
        answer = _answer(key, row[key])
        if answer in ("", None) and table:
            answer = math.nan  # as the official scorers read an empty cell
        text = _text_of_id(name)
        yield whole_number(text) if table else text, answer


def _where(path: Path, row: Mapping[str, Any]) -> str:
    """The end of a message about fields that a table does not have: why they may not be found."""
    kind = path.suffix.lower()
    if kind == ".xlsx":
        return "; only the first sheet is read"
    if kind not in DELIMITERS or len(row) != 1:
        return ""
    (name,) = row
    other = next((mark for mark in SEPARATORS if mark in name), None)
    if other is None:
        return ""
    wanted = SEPARATORS[DELIMITERS[kind]]
    return f"; a {kind} has a {wanted} between cells, this file seems to have a {SEPARATORS[other]}"


def _text_of_id(value: object) -> str:
    """An id as text; a file may have turned 12 into 12.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def rules_of(task: Task) -> Rules:
    """The rules of the official scorer of a task for incomplete predictions."""
    return RULES[task.rules] if task.rules else Rules(task.name)
