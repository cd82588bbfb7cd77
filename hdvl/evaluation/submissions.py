"""Answers in the forms that the servers of benchmarks with hidden answers take."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.evaluation.samples import Sample
from hdvl.files import atomic_write, write_text


def json_list(
    folder: Path,
    samples: Sequence[Sample],
    answers: Mapping[str, str],
    *,
    id_key: str,
    answer_key: str,
    integer_ids: bool = False,
) -> Path:
    """A JSON list of ``{id_key: id, answer_key: answer}``, as EvalAI takes it."""
    rows = [
        {id_key: int(one.id) if integer_ids else one.id, answer_key: answers[one.id]}
        for one in samples
    ]
    path = folder / "submission.json"
    write_text(path, json.dumps(rows, ensure_ascii=False) + "\n")
    return path


def json_mapping(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str]) -> Path:
    """A JSON mapping from id to answer, as the server of MMMU takes it."""
    path = folder / "submission.json"
    found = {sample.id: answers[sample.id] for sample in samples}
    write_text(path, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return path


def cmmmu_lines(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str]) -> Path:
    """JSON lines with id, type and response, as the script of CMMMU reads them."""
    lines = [
        {"id": int(one.id), "type": one.extra["kind"], "response": answers[one.id]}
        for one in samples
    ]
    path = folder / "submission.jsonl"
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def workbook(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str]) -> Path:
    """A table of XLSX with index, question, options and prediction, as MMBench's server takes it.

    Control characters, which a workbook cannot have, become spaces.
    """
    from openpyxl import Workbook

    letters = list(dict.fromkeys(letter for sample in samples for letter in sample.options))
    kinds = list(dict.fromkeys(kind for sample in samples for kind in sample.categories))
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(["index", "question", *letters, *kinds, "answer", "prediction"])
    for sample in samples:
        index = int(sample.id) if sample.id.isdigit() else sample.id
        options = [sample.options.get(letter) for letter in letters]
        groups = [sample.categories.get(kind) for kind in kinds]
        answer = sample.answers[0] if sample.answers else None
        texts = [sample.question, *options, *groups, answer, answers[sample.id]]
        sheet.append([index, *(text and _text_cell(sheet, text) for text in texts)])
    path = folder / "submission.xlsx"
    with atomic_write(path) as part:
        book.save(part)
    return path


def _text_cell(sheet: Any, text: str) -> Any:
    """A cell that is text even if it begins with "=", as a formula does."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE, WriteOnlyCell

    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub(" ", text))
    cell.data_type = "s"
    return cell


def grit_boxes(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str]) -> Path:
    """The ``refexp.json`` of GRIT: the first box of each answer in whole pixels, with a confidence of 1."""
    rows = [
        {
            "example_id": one.id,
            "confidence": 1.0,
            "bboxes": [[round(side) for side in box] for box in json.loads(answers[one.id])[:1]],
        }
        for one in samples
    ]
    path = folder / "refexp.json"
    write_text(path, json.dumps(rows) + "\n")
    return path


def touchstone_table(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str]) -> Path:
    """The table that TouchStone's ``eval.py`` reads."""
    text = io.StringIO()
    kinds = ("human_annotation", "gpt4_ha_answer")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["index", "question", *kinds, "category", "task_name", "response"])
    for one in samples:
        fields = [one.extra[kind] for kind in kinds]
        groups = [one.categories["category"], one.categories["task"]]
        writer.writerow([one.id, one.question, *fields, *groups, answers[one.id]])
    path = folder / "submission.tsv"
    write_text(path, text.getvalue())
    return path
