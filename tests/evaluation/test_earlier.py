"""Several commands that write to one folder: what the report keeps, and what a comparison finds."""

from pathlib import Path
from typing import Any

import pytest

from hdvl.config import compose, to_plain
from hdvl.evaluate_diff import cards_of
from hdvl.evaluation.earlier import CONFIG, earlier_tasks, task_config
from hdvl.evaluation.report import write_reports
from hdvl.evaluation.summary import costs
from hdvl.files import read_json
from tests.evaluation.made_up import docvqa, write

MODEL = {"checkpoint": "small", "files": {"a": (1, 2)}}


def reported(out: Path, data: Path, *names: str) -> dict[str, Any]:
    """The report after a command for tasks ``names``."""
    given = (f"task=[{','.join(names)}]", f"data_dir={data}")
    cfg = to_plain(compose(*given, config_name="evaluate"))
    earlier = earlier_tasks(out, names, MODEL)
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
    summaries = {
        name: {"score": float(len(names)), "questions": 1, "cost": costs([])} for name in names
    }
    report: dict[str, Any] = read_json(
        write_reports(out, {**earlier, **summaries}, MODEL, cfg)  # as hdvl evaluate
    )
    return report


def test_a_report_keeps_the_tasks_of_earlier_commands(tmp_path: Path) -> None:
    data, moved, out = tmp_path / "data", tmp_path / "moved", tmp_path / "out"
    first = reported(out, data, "docvqa", "chartqa", "pope")
    assert reported(out, data, "docvqa", "chartqa", "pope") == first
    second = reported(out, moved, "chartqa")
    scores = {name: one["score"] for name, one in second["tasks"].items()}
    assert scores == {"docvqa": 3.0, "chartqa": 1.0, "pope": 3.0}
    assert (out / "scores.csv").read_text().count("\n") == 4
    assert [task_config(out, name)[1] for name in ("docvqa", "chartqa")] == [str(data), str(moved)]
    (out / "pope").rmdir()
    assert list(reported(out, data, "docvqa")["tasks"]) == ["docvqa", "chartqa"]


def test_a_folder_with_tasks_of_another_model_is_refused(tmp_path: Path) -> None:
    reported(tmp_path, tmp_path, "docvqa", "pope")
    other = {**MODEL, "checkpoint": "large"}
    with pytest.raises(ValueError, match=r"answered docvqa in .*; give another folder"):
        earlier_tasks(tmp_path, ["pope"], other)
    assert list(earlier_tasks(tmp_path, ["docvqa", "pope"], other)) == ["docvqa", "pope"]


def test_a_comparison_finds_the_questions_of_an_earlier_command(tmp_path: Path) -> None:
    data, runs = tmp_path / "data", [tmp_path / "one", tmp_path / "other"]
    docvqa(data, questions=2)
    for out, score in zip(runs, (0, 1), strict=True):
        reported(out, data, "docvqa")
        reported(out, data, "pope")
        (row,) = [{"id": "100", "answer": "word", "prompt": "", "score": score, "answers": []}]
        write(out / "docvqa/results.jsonl", [row])
    assert len(cards_of("docvqa", ["100"], runs, None)) == 1
    kept = read_json(runs[0] / CONFIG)["task"]
    write(runs[0] / CONFIG, {"task": {"pope": kept["pope"]}})
    with pytest.raises(ValueError, match=f"{CONFIG} must say how docvqa was read"):
        cards_of("docvqa", ["100"], runs, None)
