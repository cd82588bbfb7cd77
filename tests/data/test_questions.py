"""Questions in folders, patterns, JSON lines and parquet files; bad rows are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl.data.questions import PreparedQuestions, Questions, open_questions
from hdvl.data.rows import RowError
from hdvl.inference import Pipeline
from tests.tiny_model import tiny_vlm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    for name in ("b.png", "a.jpg", "deep/c.webp"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "scans" / name)
    (tmp_path / "scans" / "notes.txt").write_text("no image")
    (tmp_path / "scans" / ".hidden.png").write_text("no image")
    return tmp_path / "scans"


def names(questions: Questions, start: Path) -> list[str]:
    paths = [questions[number][-1].images[0] for number in range(len(questions))]
    return [Path(path).relative_to(start).as_posix() for path in paths]


def lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_the_images_of_a_folder_and_of_a_pattern(folder: Path) -> None:
    questions = open_questions(str(folder), prompt="What?", system="Be brief.")
    assert names(questions, folder) == ["a.jpg", "b.png", "deep/c.webp"]
    system, user = questions[0][0], questions[1][1]
    assert (system.role, system.text, user.text) == ("system", "Be brief.", "What?")
    some = open_questions(str(folder / "*.png"), prompt="What?")
    assert names(some, folder) == ["b.png"] and some.name(0).endswith("scans/b.png")
    deep = open_questions(str(folder / "**/*.webp"), prompt="What?")
    assert names(deep, folder) == ["deep/c.webp"]
    assert len(open_questions(str(folder / "b.png"), prompt="What?")) == 1
    assert len({found.identity() for found in (questions, some, deep)}) == 3


def test_rows_of_json_lines(folder: Path) -> None:
    path = lines(
        folder / "rows.jsonl",
        {"id": "x1", "image": "a.jpg", "prompt": "Who?"},
        {"images": ["a.jpg", "b.png"], "question": "Which?", "system": "Be brief."},
        {"image": "b.png"},
        {"prompt": "Without an image?"},
        {
            "image": "a.jpg",
            "conversations": [
                {"from": "human", "value": "<image>One?"},
                {"from": "gpt", "value": "1"},
                {"from": "human", "value": "Two?"},
                {"from": "gpt", "value": "2"},
            ],
        },
    )
    questions = open_questions(path, prompt="What?")
    asked = [questions[number][-1].text for number in range(5)]
    assert asked == ["Who?", "Which?", "What?", "Without an image?", "Two?"]
    assert [len(questions[number]) for number in range(5)] == [1, 2, 1, 1, 3]
    assert questions[1][1].images == (folder / "a.jpg", folder / "b.png")
    assert questions.describe(0) == {"id": "x1", "images": ["a.jpg"], "prompt": "Who?"}
    assert questions.describe(3) == {"prompt": "Without an image?"}
    other = open_questions(path, prompt="What?", image_folder="/elsewhere")
    assert other[0][0].images == (Path("/elsewhere/a.jpg"),)
    before = questions.identity()
    lines(folder / "rows.jsonl", {"image": "a.jpg", "prompt": "Who else?"})
    assert open_questions(path).identity() != before


@pytest.mark.slow
def test_rows_of_parquet(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = (folder / "b.png").read_bytes()
    rows = [
        {"image": {"bytes": data, "path": None}, "prompt": "Who?"},
        {"image": {"bytes": None, "path": "a.jpg"}, "prompt": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    questions = open_questions(str(folder / "rows.parquet"), prompt="What?")
    assert [questions[number][0].text for number in (0, 1)] == ["Who?", "What?"]
    assert questions[0][0].images == (data,) and questions[1][0].images == (folder / "a.jpg",)
    assert questions.describe(0) == {"prompt": "Who?"}
    assert questions.describe(1) == {"images": ["a.jpg"]}
    assert len(questions.identity()) == 64


def test_bad_rows_are_prepared_as_errors_that_name_them(folder: Path) -> None:
    (folder / "bad.png").write_text("no image at all")
    path = lines(
        folder / "rows.jsonl",
        {"image": "a.jpg", "prompt": "Who?"},
        '{"image": ',
        {"image": "a.jpg"},
        {"image": "missing.png", "prompt": "Who?"},
        {"image": "bad.png", "prompt": "Who?", "id": 7},
        {"image": "a.jpg", "prompt": "<image><image>Who?"},
        [1, 2],
        {"image": 3, "prompt": "Who?"},
    )
    questions = open_questions(path)
    with pytest.raises(RowError, match=r"row 2 of .*rows.jsonl: a row must have a question"):
        questions[2]
    prepared = PreparedQuestions(questions, Pipeline(model=tiny_vlm()).processor)
    found = [prepared[number] for number in range(len(prepared))]
    good = found[0]
    assert good.sample is not None and len(good.sample.ids) > 10 and not good.error
    wanted = [
        "row 1 of .*rows.jsonl.* neither",
        "row 2 of .* a row must have a question",
        "missing.png",
        "row 4 .id 7. of .*bad.png is not an image",
        "row 5 of .*image",
        "row 6 of .*a row must be a mapping of fields, got list",
        "row 7 of .*an image must be a path",
    ]
    for row, message in zip(found[1:], wanted, strict=True):
        assert row.sample is None
        with pytest.raises(ValueError, match=message):
            raise ValueError(row.error)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("nowhere", {"prompt": "x"}, "inputs must be a folder, a pattern, or a JSON.*'nowhere'"),
        ("*.gif", {"prompt": "x"}, "matches no file"),
        (".", {}, "prompt must be given.*images alone"),
        ("notes.txt", {}, "inputs must end in .json, .jsonl or .parquet"),
        ("empty", {"prompt": "x"}, "holds no images"),
    ],
)
def test_wrong_inputs_are_refused(
    folder: Path, inputs: str, options: dict[str, str], message: str
) -> None:
    (folder / "empty").mkdir()
    inputs = inputs if inputs == "nowhere" else str(folder / inputs)
    with pytest.raises(ValueError, match=message):
        open_questions(inputs, **options)
