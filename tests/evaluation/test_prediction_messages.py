"""What the refusal of a file of predictions says: formulas, wrapped rows, separators, long numbers."""

import json
from pathlib import Path

import pytest

from hdvl.evaluation.predictions import read_predictions
from tests.evaluation.made_up import docvqa, write
from tests.evaluation.tasks import scored_file as run


def refused(path: Path, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(read_predictions(path))


def test_formulas_and_other_sheets_of_a_workbook(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["index", "prediction"])
    book.active.append(["1", "=1+1"])
    book.save(tmp_path / "a.xlsx")
    refused(tmp_path / "a.xlsx", r"cell B2 of .*a\.xlsx must be a value, got the formula '=1\+1'")
    book = Workbook()
    book.active.append(["notes", "x"])
    book.active.append(["on the second sheet", "y"])
    for row in (["index", "prediction"], ["1", "a"]):
        book.create_sheet().append(row)
    book.save(tmp_path / "b.xlsx")
    refused(tmp_path / "b.xlsx", "got the fields notes, x; only the first sheet is read")


@pytest.mark.parametrize("key", ["results", "data"])
def test_wrapped_rows_are_named(key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"model": "m", key: [{"question_id": 1, "answer": "a"}]})
    refused(path, f"must be a list of rows or a mapping .* under the key '{key}'")


@pytest.mark.parametrize(
    ("name", "mark", "said"),
    [
        ("a.csv", ";", "csv has a comma between cells, this file seems to have a semicolon"),
        ("a.csv", "\t", "csv has a comma between cells, this file seems to have a tab"),
        ("a.tsv", ",", "tsv has a tab between cells, this file seems to have a comma"),
    ],
)
def test_another_separator_is_named(name: str, mark: str, said: str, tmp_path: Path) -> None:
    refused(write(tmp_path / name, f"index{mark}prediction\n1{mark}a\n"), said)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_number_of_5000_digits(name: str, tmp_path: Path) -> None:
    row = f'{{"id": 1, "answer": {"1" * 5000}}}'
    path = write(tmp_path / name, f"[{row}]" if name == "a.json" else row)
    refused(path, "has a number of more than 4300 digits; restore the file")


def test_only_forms_that_the_documentation_lists(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.txt", "a"), r"one of \.json, \.jsonl, \.tsv, \.csv, \.xlsx, got")


def test_answers_that_are_all_null(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=2)
    rows = [{"questionId": number, "answer": None} for number in (100, 101)]
    path = write(tmp_path / "p.json", json.dumps(rows))
    with pytest.raises(ValueError, match="null or empty cells, write texts"):
        run(tmp_path, "docvqa", path, "partial=true")


def test_a_metric_that_does_not_exist(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=2)
    path = write(tmp_path / "p.json", {"100": "a"})
    other = "task.docvqa.protocols.official.score.metric=foo"
    with pytest.raises(ValueError, match=r"metric must be one of vqa, .*got 'foo'"):
        run(tmp_path, "docvqa", path, "partial=true", other)
