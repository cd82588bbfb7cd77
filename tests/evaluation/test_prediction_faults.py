"""Faulty files of predictions: numbers for texts, torn tables, broken JSON, other encodings, folders."""

import csv
import json
from collections.abc import Iterable
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation.predictions import read_predictions
from tests.evaluation.made_up import docvqa, write, write_tsv
from tests.evaluation.tasks import scored_file as run

Pair = tuple[str, Any]


def save(
    path: Path, pairs: Iterable[Pair], *more: Any, names: tuple[str, str] = ("index", "prediction")
) -> Path:
    """Predictions in the form that the name of the file says; ``more`` are cells after the last row."""
    rows = [list(pair) for pair in pairs]
    if path.suffix == ".xlsx":
        from openpyxl import Workbook

        book = Workbook()
        for row in (names, *rows[:-1], [*rows[-1], *more]):
            book.active.append(row)
        book.save(path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([names, *rows[:-1], [*rows[-1], *more]])
    elif path.stem == "mapping":
        items = [f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in rows]
        write(path, f"{{{', '.join(items)}}}")  # a key may be repeated
    else:
        write(path, [dict(zip(names, row, strict=True)) for row in rows])
    return path


FORMS = ["list.json", "mapping.json", "a.jsonl", "a.csv", "a.tsv", "a.xlsx"]
NUMBERS = [("1", 5), ("2", 0.5), ("3", 12345678901), ("4", True), ("5", -1.25), ("6", "1.0")]
TEXTS = ["5", "0.5", "12345678901", "True", "-1.25", "1.0"]


@pytest.mark.parametrize("form", FORMS)
def test_a_number_is_the_text_that_str_writes(form: str, tmp_path: Path) -> None:
    found = dict(read_predictions(save(tmp_path / form, NUMBERS)))
    assert [str(found[name]) for name, _ in NUMBERS] == TEXTS


def test_numbers_of_a_workbook_have_no_fraction_that_is_not_seen(tmp_path: Path) -> None:
    cells = [5.0, 1e15, 2**60, datetime(2024, 5, 1), None]
    file = save(tmp_path / "a.xlsx", [(str(n), cell) for n, cell in enumerate(cells)])
    whole, large, longer, date, empty = dict(read_predictions(file)).values()
    assert (str(whole), str(large)) == ("5", "1000000000000000")
    assert str(longer) == str(int(float(f"{2**60:.16g}")))  # a workbook has 15 to 17 digits
    assert date == datetime(2024, 5, 1) and isinstance(empty, float) and isnan(empty)


@pytest.mark.slow
def test_numbers_are_scored_and_dates_refused_as_the_official_scorer_does(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=3)
    data = tmp_path / "docvqa/val_v1.0_withQT.json"
    data.write_text(data.read_text().replace("word", ""))  # the answers are 0, 1 and 2
    for form in FORMS:
        report = run(
            tmp_path, "docvqa", save(tmp_path / form, [("100", 0), ("101", 1), ("102", 3)])
        )
        assert report["correct"] == {"100": 1, "101": 1, "102": 0}, form
        assert not any(report["problem_counts"].values())
    dates = save(tmp_path / "a.xlsx", [("100", datetime(2024, 5, 1)), ("101", 1), ("102", 2)])
    with pytest.raises(ValueError, match=r"got not_text 1 \('100'\)"):
        run(tmp_path, "docvqa", dates)
    star = {"question": "q", "A": "2024-05-01 00:00:00", "B": "no", "answer": "A"}
    write_tsv(tmp_path / "MMStar.tsv", [{"index": n, **star} for n in (100, 101)])
    report = run(tmp_path, "mmstar", dates, "task.mmstar.protocol=vlmevalkit")
    assert report["correct"]["100"] == 1  # VLMEvalKit compares the text that pandas makes of a date
    assert report["problems"]["not_text"] == ["100"]


TORN = {
    "a.csv surplus": "100,x\n101,y,z\n102,w\n",
    "a.csv few": "100,x\n101\n102,w\n",
    "a.tsv surplus": "100\tx\n101\ty\tz\n102\tw\n",
    "a.tsv few": "100\tx\n101\n102\tw\n",
    "a.csv quote": '100,x\n101,"y\n102,"w\n',
    "a.tsv quote": '100\tx\n101\t"y\n102\t"w\n',
    "a.csv open": '100,x\n101,"y\n102,w\n',
    "a.tsv open": '100\tx\n101\t"y\n102\tw\n',
}
SAID = {
    "surplus": "line 3 of .*must have 2 cells as the first line, got 3; put a cell with a (tab|comma)",
    "few": "line 3 of .*must have 2 cells as the first line, got 1; put a cell with a line break",
    "quote": "line 3 of .*must be a row of a table, it is not: .* expected after '\"'",
    "open": "ends inside of a quoted cell of the row in line 3; close its quotes",
}


@pytest.mark.parametrize("kind", TORN)
def test_torn_tables_are_refused_with_the_line(kind: str, tmp_path: Path) -> None:
    name, fault = kind.split()
    head = "index,prediction\n" if name.endswith("csv") else "index\tprediction\n"
    file = write(tmp_path / name, head + TORN[kind])
    with pytest.raises(ValueError, match=SAID[fault]):
        list(read_predictions(file))


def test_quotes_inside_of_a_cell_and_empty_records_are_read(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.csv",
        'index,prediction\r\n1,"a, ""b""\nc"\r\n\r\n,\r\n2,5" pipe\r\n3,"x" y\r\n',
    )
    assert list(read_predictions(file)) == [("1", 'a, "b"\nc'), ("2", '5" pipe'), ("3", "x y")]


def test_carriage_returns_are_characters_of_a_cell(tmp_path: Path) -> None:
    pairs = [("1", "a\rb"), ("2", "c\r\nd"), ("3", "\r")]
    for name in ("a.csv", "a.tsv"):
        mark = "," if name == "a.csv" else "\t"
        text = f'index{mark}prediction\r\n1{mark}a\rb\r\n2{mark}"c\r\nd"\r\n3{mark}"\r"\r\n'
        assert list(read_predictions(write(tmp_path / name, text.encode()))) == pairs


def test_cells_of_a_workbook_outside_of_its_columns_are_refused(tmp_path: Path) -> None:
    pairs = [("1", "a"), ("2", "b")]
    with pytest.raises(
        ValueError, match=r"row 3 of .*got 'more' in column C; put an answer into one cell"
    ):
        list(read_predictions(save(tmp_path / "a.xlsx", pairs, "more")))
    assert list(read_predictions(save(tmp_path / "b.xlsx", pairs, None))) == pairs
    from openpyxl import Workbook

    book = Workbook()
    for row in ([None, "index", "prediction"], [0, 7, "A"]):  # pandas numbers rows so
        book.active.append(row)
    book.save(tmp_path / "c.xlsx")
    assert list(read_predictions(tmp_path / "c.xlsx")) == [("7", "A")]
    torn = write(tmp_path / "d.xlsx", (tmp_path / "c.xlsx").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"d\.xlsx must be a workbook of Excel"):
        list(read_predictions(torn))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('[\n {"id": 1, "text": "a"},\n {"id": 2 "text": "b"}\n]', 3, 11),
        ('[\n {"id": 1, "text": "é"},\n {"id": 2, "text": "b"},\n]', 4, 1),
        ('[{"id": 1, "text": "a"}\n {"id": 2, "text": "b"}]', 2, 2),
        ('{"1": "a",\n "2": b}', 2, 7),
        ('{"1": "a",\n 2: "b"}', 2, 2),
        ('{"1": "a"}\n\n "x"', 3, 2),
        ('[\n{"id": 1, "text": "a"}', 2, 23),
    ],
)
def test_the_place_of_a_fault_in_json(
    text: str, line: int, column: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hdvl.evaluation import json_stream

    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file = write(tmp_path / "a.json", text)
    with pytest.raises(
        ValueError, match=rf"a\.json must be JSON, line {line}, column {column} is not: "
    ):
        list(read_predictions(file))


def test_a_broken_row_is_named_before_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hdvl.evaluation import json_stream

    monkeypatch.setattr(json_stream, "CHUNK", 100)
    path = write(tmp_path / "a.json", '[{"id": 1 "text": "a"}' + ", 1" * 1000)
    with path.open() as file:
        stream = json_stream.JsonStream(path, file)
        with pytest.raises(ValueError, match="line 1, column 11"):
            list(stream.items())
        assert len(stream.text) == 100
    deep = write(tmp_path / "b.json", "[" * 200_000)
    with pytest.raises(
        ValueError, match=r"b\.json must be JSON, line 1, column 2 is not: the value"
    ):
        list(read_predictions(deep))
    long = write(tmp_path / "c.jsonl", f'{{"id": 1, "text": {"1" * 5000}}}\n')
    with pytest.raises(
        ValueError, match=r"line 1 of .*c\.jsonl must be JSON, it is not: the value has a"
    ):
        list(read_predictions(long))


@pytest.mark.parametrize("form", FORMS[:-1])
def test_other_encodings_are_named_with_the_line(form: str, tmp_path: Path) -> None:
    file = save(tmp_path / form, [("1", "a"), ("2", "b"), ("3", "zz")])
    text = file.read_bytes().replace(b"\r\n", b"\n").replace(b"zz", b"\xe9")
    line = 1 + text[: text.index(b"\xe9")].count(b"\n")
    with pytest.raises(
        ValueError, match=rf"line {line} of .*{form} must be UTF-8, .*iconv -f LATIN1"
    ):
        list(read_predictions(write(file, text)))
    with pytest.raises(
        ValueError, match=r"line 1 of .*its byte 1 is 0xff; .*iconv -f UTF-16 -t UTF-8"
    ):
        list(read_predictions(write(file, text.decode("latin1").encode("utf-16"))))
    expected = [("1", "a"), ("2", "b"), ("3", "é")]
    marked = b"\xef\xbb\xbf" + text.replace(b"\xe9", "é".encode()).replace(b"\n", b"\r\n")
    assert list(read_predictions(write(file, marked))) == expected


@pytest.mark.parametrize("form", ["a.json", "a.jsonl", "a.csv", "a.tsv"])
def test_files_without_a_row_are_named(form: str, tmp_path: Path) -> None:
    for text in (
        "",
        "index,prediction\n" if form.endswith("v") else "",
        "{}" if form == "a.json" else "\n",
    ):
        with pytest.raises(ValueError, match=rf"{form} must (have a row with|be JSON)"):
            list(read_predictions(write(tmp_path / form, text)))


def test_a_folder_is_read_only_where_the_official_tool_reads_one(tmp_path: Path) -> None:
    docvqa(tmp_path)
    write(tmp_path / "results/a.txt", "a.jpg\tIs it red?\tYes\tYes\n")
    with pytest.raises(ValueError, match=r"predictions must be a file, .*results is a folder"):
        run(tmp_path, "docvqa", tmp_path / "results")


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    rows = [{"question_id": n, "answer": "yes"} for n in range(2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert list(read_predictions(write(tmp_path / "a.json", lines))) == [("0", "yes"), ("1", "yes")]
    spread = json.dumps({"5": {"response": "a"}, "6": "b"}, indent=1)
    assert list(read_predictions(write(tmp_path / "b.json", spread))) == [("5", "a"), ("6", "b")]


def test_images_and_boxes_in_tables_are_text(tmp_path: Path) -> None:
    pairs = [("V_1.jpg", "a"), ("V_2.jpg", "b")]
    file = save(tmp_path / "a.tsv", pairs, names=("image", "answer"))
    assert list(read_predictions(file)) == pairs
    boxes = [("e1", "[[1, 2, 3, 4]]"), ("e2", "[]")]
    for name in ("b.tsv", "b.csv", "b.xlsx", "b.json"):
        assert list(read_predictions(save(tmp_path / name, boxes, names=("id", "bboxes")))) == boxes
    plain = [{"id": name, "bboxes": json.loads(text)} for name, text in boxes]
    assert list(read_predictions(write(tmp_path / "c.json", plain))) == boxes
    (_, empty), _ = read_predictions(save(tmp_path / "d.csv", [("e1", ""), ("e2", "x")]))
    assert isinstance(empty, float) and isnan(empty)


def test_answers_beyond_the_limit_are_known(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=6, pages=3)
    pairs = [(str(n), f"word{n - 100}") for n in range(100, 106)]
    report = run(tmp_path, "docvqa", save(tmp_path / "a.csv", pairs), "limit=2")
    assert list(report["correct"]) == ["100", "101", "103", "104"]  # all questions about two pages
    assert not any(report["problem_counts"].values())
    with pytest.raises(ValueError, match=r"got unknown 1 \('9'\)"):
        run(tmp_path, "docvqa", save(tmp_path / "a.csv", [*pairs, ("9", "x")]), "limit=2")


def test_every_problem_is_named_where_one_refuses_the_file(tmp_path: Path) -> None:
    row = {
        "question": "q",
        "A": "1",
        "B": "2",
        "answer": "A",
        "category": "Math",
        "split": "validation",
    }
    write_tsv(tmp_path / "MMMU_DEV_VAL.tsv", [{"index": n, **row} for n in (31, 32)])
    pairs = [("31", "A"), ("31", "B"), ("validation_Math_2", "A")]
    said = (
        r"predictions of MMMU must answer .*got missing 1 \('32'\); duplicate 1 \('31'\); "
        r"unknown 1 \('validation_Math_2'\); correct the file, or set partial=true to score the others"
    )
    with pytest.raises(ValueError, match=said):
        run(tmp_path, "mmmu", save(tmp_path / "a.xlsx", pairs))


def test_each_answer_to_a_question_of_textvqa_counts(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": n,
            "image_id": "i",
            "question": "What?" if n < 2 else "Who?",
            "answers": [str(n)] * 10,
        }
        for n in range(3)
    ]
    write(tmp_path / "textvqa/TextVQA_0.5.1_val.json", {"data": rows})
    pairs = [("0", "0"), ("1", "1"), ("1", "x"), ("2", "2")]
    report = run(tmp_path, "textvqa", save(tmp_path / "a.json", pairs))
    assert report["score"] == 75 and report["questions"] == 4
    assert report["problem_counts"]["duplicate"] == 1
    # LLaVA's script scores both answers to one question of an image by the answers of the last.
    given = [
        {"question_id": "i", "prompt": f"{asked}\nAnswer.", "text": text}
        for asked, text in (("What?", "1"), ("WHAT?", "0"), ("Who?", "2"))
    ]
    report = run(tmp_path, "textvqa", write(tmp_path / "a.jsonl", given))
    assert report["score"] == pytest.approx(200 / 3) and report["problems"]["missing"] == ["0"]
    ids = [{"question_id": n, "prompt": "What?\nAnswer.", "text": str(n)} for n in range(3)]
    assert run(tmp_path, "textvqa", write(tmp_path / "a.jsonl", ids))["score"] == 100


def test_a_file_that_answers_no_question_is_refused_even_if_missing_answers_are_wrong(
    tmp_path: Path,
) -> None:
    problem = {"question": "q", "choices": ["x", "y"], "answer": 1, "image": "image.png"}
    write(tmp_path / "scienceqa/problems.json", {"1": problem, "2": problem})
    write(tmp_path / "scienceqa/pid_splits.json", {"test": ["1", "2"]})
    with pytest.raises(
        ValueError, match=r"at least one question, got missing: 2 .*; unknown: 1 \('9'\)"
    ):
        run(tmp_path, "scienceqa", save(tmp_path / "a.csv", [("9", "B")]))
    assert run(tmp_path, "scienceqa", save(tmp_path / "a.csv", [("2", "B")]))["score"] == 50


def test_ids_that_a_table_made_numbers_are_joined(tmp_path: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [{"question_id": n, "image": "a.jpg", "text": "q", "label": "yes"} for n in range(2)]
        write(tmp_path / f"pope/coco_pope_{split}.jsonl", rows)
    pairs = [("0.0", "yes"), ("1.0", "yes")]
    file = save(tmp_path / "a.csv", pairs, names=("question_id", "answer"))
    assert run(tmp_path, "pope", file, "task.pope.split=popular")["questions"] == 2


def test_the_last_answer_to_a_question_of_vqav2_counts_as_often_as_it_has_answers(
    tmp_path: Path,
) -> None:
    questions = [{"question_id": n, "image_id": 1, "question": "q"} for n in range(2)]
    ten = [[{"answer": str(n), "answer_id": k} for k in range(10)] for n in range(2)]
    notes = [{"question_id": n, "answers": ten[n]} for n in range(2)]
    write(tmp_path / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write(tmp_path / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": notes})
    pairs = [("0", "x"), ("1", "x"), ("0", "0")]
    report = run(
        tmp_path, "vqav2", save(tmp_path / "a.json", pairs, names=("question_id", "answer"))
    )
    assert report["score"] == pytest.approx(200 / 3) and report["problem_counts"]["duplicate"] == 1
