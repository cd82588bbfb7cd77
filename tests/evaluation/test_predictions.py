"""Predictions of anyone are read in each form, and bad input is named and counted."""

import subprocess
import sys
from pathlib import Path

import pytest

from hdvl import score
from hdvl.config import compose, to_plain
from hdvl.evaluation.predictions import read_predictions
from hdvl.files import read_json
from tests.evaluation.made_up import docvqa, write, write_tsv

PAIRS = [("100", "word0"), ("101", "None")]


def test_each_form_is_read(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["index", "answer", "prediction"])
    for name, answer in PAIRS:
        book.active.append([float(name), "truth", answer])
    book.save(tmp_path / "a.xlsx")
    rows = [{"index": name, "answer": "truth", "prediction": answer} for name, answer in PAIRS]
    forms = [
        write(tmp_path / "evalai.json", [{"questionId": int(n), "answer": a} for n, a in PAIRS]),
        write(tmp_path / "llava.jsonl", [{"question_id": n, "text": a} for n, a in PAIRS]),
        write(tmp_path / "mapping.json", dict(PAIRS)),
        write(tmp_path / "responses.json", {n: {"response": a} for n, a in PAIRS}),
        write_tsv(tmp_path / "vlmevalkit.tsv", rows),
        tmp_path / "a.xlsx",
    ]
    for path in forms:
        assert list(read_predictions(path)) == PAIRS, path.name


def test_rows_without_id_or_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1 of .* must have an id"):
        list(read_predictions(write(tmp_path / "a.jsonl", [{"text": "a"}])))
    with pytest.raises(ValueError, match=r"row 1 of .* must have an answer .* got the fields id"):
        list(read_predictions(write(tmp_path / "a.jsonl", [{"id": 1}])))


def run(root: Path, predictions: Path, *overrides: str) -> None:
    words = [f"predictions={predictions}", f"data_dir={root}", f"out={root / 'out.json'}"]
    score.run(to_plain(compose("task=docvqa", *words, *overrides, config_name="score")))


def test_incomplete_files_are_scored_only_where_the_official_scorer_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docvqa(tmp_path, questions=3)
    pairs = [*PAIRS, ("101", "word1"), ("999", "x")]
    file = write(tmp_path / "p.json", [{"questionId": n, "answer": a} for n, a in pairs])
    with pytest.raises(
        ValueError, match=r"missing 1 \('102'\); duplicate 1 .*; unknown 1 \('999'\)"
    ):
        run(tmp_path, file)
    run(tmp_path, file, "partial=true")
    said = capsys.readouterr().out
    assert "2 questions" in said and "unknown: 1 ('999')" in said and "ANLS  100.0000" in said
    report = read_json(tmp_path / "out.json")
    assert report["score"] == 100 and report["problems"]["missing"] == ["102"]
    whole = [("100", "word0"), ("101", "x"), ("102", "word2")]
    run(tmp_path, write(tmp_path / "q.json", [{"questionId": n, "answer": a} for n, a in whole]))
    assert read_json(tmp_path / "out.json")["score"] == pytest.approx(200 / 3)


@pytest.mark.slow
def test_torch_is_not_imported(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=1)
    file = write(tmp_path / "p.json", [{"questionId": 100, "answer": "word0"}])
    code = (
        "import sys; from hdvl import score; from hdvl.config import compose, to_plain;"
        f"score.run(to_plain(compose('task=docvqa', 'predictions={file}', 'data_dir={tmp_path}',"
        "config_name='score'))); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
