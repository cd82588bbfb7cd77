"""Answers in the forms of the servers can be read back, and equal what was answered."""

from pathlib import Path

from hdvl.evaluation.predictions import read_predictions
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.submissions import cmmmu_lines, json_list, json_mapping, workbook
from hdvl.files import read_json

SAMPLES = [
    Sample("7", "Which?", options={"A": "None", "B": "x"}, categories={"category": "c"}),
    Sample("1000007", "Which?", options={"A": "x", "B": "None"}, categories={"category": "c"}),
]
ANSWERS = {"7": "A", "1000007": "None"}


def test_submissions_are_read_back(tmp_path: Path) -> None:
    listed = json_list(
        tmp_path, SAMPLES, ANSWERS, id_key="question_id", answer_key="answer", integer_ids=True
    )
    assert read_json(listed)[0] == {"question_id": 7, "answer": "A"}
    assert dict(read_predictions(listed)) == ANSWERS
    assert dict(read_predictions(json_mapping(tmp_path, SAMPLES, ANSWERS))) == ANSWERS
    assert dict(read_predictions(workbook(tmp_path, SAMPLES, ANSWERS))) == ANSWERS


def test_a_workbook_has_answers_that_look_like_formulas_or_have_control_characters(
    tmp_path: Path,
) -> None:
    from openpyxl import load_workbook

    path = workbook(tmp_path, SAMPLES, {"7": "=1+1", "1000007": "a\x08b"})
    book = load_workbook(path, data_only=True)  # as pandas reads it: the values of formulas
    rows = list(book.active.iter_rows(values_only=True))
    assert [row[-1] for row in rows] == ["prediction", "=1+1", "a b"]
    assert rows[1][0] == 7 and rows[1][2:5] == ("None", "x", "c")


def test_cmmmu_has_exactly_the_fields_that_its_script_reads(tmp_path: Path) -> None:
    sample = Sample("3", "问", extra={"kind": "判断"})
    path = cmmmu_lines(tmp_path, [sample], {"3": "对"})
    assert path.read_text(encoding="utf-8") == '{"id": 3, "type": "判断", "response": "对"}\n'
    assert dict(read_predictions(path)) == {"3": "对"}
