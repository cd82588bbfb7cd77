"""``hdvl demo``: questions are read, answers are judged, and a page is written."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl import demo
from hdvl.command import exit_with_message
from hdvl.config import compose, resolve
from hdvl.inference import Pipeline, html_report
from hdvl.inference.cases import Case, ask_cases, is_right, overlap, read_cases
from hdvl.inference.load import load
from tests.inference.saying import say
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
LOCATED = "<ref>cup</ref><box>(100,250),(500,750)</box>"  # (7, 10, 35, 30) of 70 x 40


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    rows = [
        {
            "image": "a.png",
            "question": "Where is the cup?",
            "answer": LOCATED,
            "box": [7, 10, 35, 31],
        },
        {"image": ["a.png", "a.png"], "question": "总计 <b>?", "answer": "12.50 元"},
    ]
    (tmp_path / "demo.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path / "demo.json"


@pytest.fixture
def parrot(tiny_folder: Path) -> Pipeline:
    pipe = load(tiny_folder)
    say(pipe, LOCATED)
    return pipe


def test_questions_are_read(questions: Path) -> None:
    first, second = read_cases(questions)
    assert first.images == (questions.parent / "a.png",) and first.box == (7, 10, 35, 31)
    assert len(second.images) == 2 and second.truth == "12.50 元" and second.box is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must be a list with at least one entry"),
        ({}, "must be a list with at least one entry"),
        (
            [{"image": "a", "question": "b"}],
            r"question 1 of .* missing: \['answer'\], surplus: \[\]",
        ),
        ([{"image": "a", "question": "b", "answer": "c", "bx": 1}], r"surplus: \['bx'\]"),
        (
            [{"image": "a", "question": "b", "answer": "c", "box": [1]}],
            r"box must be 4 numbers, got",
        ),
    ],
)
def test_questions_that_are_none(tmp_path: Path, rows: Any, message: str) -> None:
    (tmp_path / "q.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_cases(tmp_path / "q.json")


def test_no_questions(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"questions must be a JSON file, got .*, which is no file"
    ):
        read_cases(tmp_path / "absent.json")


@pytest.mark.slow
def test_right_and_wrong(parrot: Pipeline, questions: Path) -> None:
    located, asked = ask_cases(parrot, read_cases(questions))
    assert located.right and not asked.right
    say(parrot, " 12.50  元")
    answer = parrot.chat("?")
    assert is_right(Case((), "?", "12.50 元"), answer)
    assert not is_right(Case((), "?", "12.5 元"), answer)
    assert not is_right(Case((), "?", LOCATED, box=(0, 0, 9, 9)), answer)  # no box at all


def test_overlap() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_the_page_holds_everything(parrot: Pipeline, questions: Path, tmp_path: Path) -> None:
    outcomes = list(ask_cases(parrot, read_cases(questions)))
    path = html_report.write_page(
        tmp_path / "new" / "index.html", outcomes, title="t", about="a & b"
    )
    text = path.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing outside
    assert "总计 &lt;b&gt;?" in text and "a &amp; b" in text and "<b>" not in text
    assert "1 of 2 right" in text and 'class="right"' in text and 'class="wrong"' in text
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    drawn = html_report.outcome_image(outcomes[0], 0)
    assert drawn.size == (70, 40) and drawn.tobytes() != outcomes[0].answer.draw().tobytes()


def test_rows_keep_their_columns() -> None:
    row = ("a.png", "总计" * 20, "b", "c", "right", "7", "80", "0.10")
    line, head = html_report.table_row(row), html_report.table_row(html_report.HEAD)
    place = head.index("tiles")
    wide = sum(html_report._columns(sign) for sign in line[: line.index("right")])
    assert wide + html_report.WIDTHS[4] + 2 == place and "…" in line


def test_demonstrate(
    tiny_folder: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose(
        f"checkpoint={tiny_folder}",
        f"questions={questions}",
        f"page={tmp_path / 'page.html'}",
        "max_new_tokens=4",
        config_name="demo",
    )
    assert demo.demonstrate(resolve(cfg)) == tmp_path / "page.html"
    out = capsys.readouterr().out
    assert "M parameters, 2 questions" in out and "0 of 2 right" in out
    assert out.count("WRONG") == 2


def test_one_line_says_what_is_missing(tmp_path: Path) -> None:
    cfg = resolve(compose(f"questions={tmp_path / 'none.json'}", config_name="demo"))
    with pytest.raises(SystemExit, match="hdvl demo: questions must be a JSON file"):
        with exit_with_message("demo"):
            demo.demonstrate(cfg)
