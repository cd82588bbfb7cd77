"""The files that a task leaves: answers with scores, failures, a summary with what images cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from hdvl.config import build, compose, to_plain
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.report import write_failures, write_reports
from hdvl.evaluation.results import finish_task
from hdvl.evaluation.runner import Answers
from hdvl.evaluation.summary import remarks
from tests.evaluation.made_up import docvqa

IMAGE = {"size": [48, 40], "resized": [24, 20], "tiles": 3, "visual_tokens": 30}


def config(*overrides: str) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(compose(*overrides, config_name="evaluate"))
    return plain


def finished(root: Path, out: Path, answers: Answers, *overrides: str) -> dict[str, Any]:
    cfg = config("task=[docvqa]", *overrides)
    task, folder = build(cfg["task"]["docvqa"]), DataFolder(root)
    return finish_task(task, task.samples(folder), answers, folder, out, cfg)


def row(text: str) -> dict[str, Any]:
    return {"key": "k", "answer": text, "images": [IMAGE], "truncated": text == "cut"}


def test_scores_costs_and_protocol_are_reported(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=4)
    answers = Answers(
        {"100": row("Word0"), "101": row("word1"), "102": row("cut"), "103": row("word9")}
    )
    summary = finished(tmp_path, tmp_path / "out", answers)
    assert summary["score"] == pytest.approx(100 * (1 + 1 + 0 + 0.8) / 4)
    assert summary["metric"] == "ANLS" and summary["tables"]["question_type"]["form"] == 70
    assert summary["cost"] == {
        "questions": 4,
        "images": 4,
        "tiles_per_image": 3,
        "visual_tokens_per_image": 30,
        "reduced_images": 4,
        "truncated_answers": 1,
    }
    assert summary["uncertainty"]["groups"] == 2
    assert list(summary["data"]) == ["docvqa/val_v1.0_withQT.json"]
    assert "single word or phrase" in summary["protocol_settings"]["prompt"]
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [one["score"] for one in rows] == pytest.approx([1, 1, 0, 0.8])
    assert rows[0]["answers"] == ["word0"] and "key" not in rows[0]
    path = write_reports(tmp_path / "out", {"docvqa": summary}, {}, config("task=[docvqa]"))
    assert json.loads(path.read_text())["tasks"]["docvqa"]["score"] == summary["score"]
    assert "docvqa,official,ANLS,70.00" in (tmp_path / "out/scores.csv").read_text()


def test_a_failed_question_is_listed_and_the_task_has_no_score(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=2)
    answers = Answers({"100": row("word0")}, {"101": "question 101: no such file"})
    summary = finished(tmp_path, tmp_path / "out", answers)
    assert "score" not in summary and summary["failed"] == ["101"]
    assert "no such file" in (tmp_path / "out/failed.jsonl").read_text()


@pytest.mark.slow
def test_a_protocol_has_a_hash_of_its_own(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=1)
    hashes = {
        finished(tmp_path, tmp_path / "out", Answers({"100": row("a")}), *overrides)[
            "protocol_hash"
        ]
        for overrides in (
            [],
            ["task.docvqa.protocol=qwen_vl"],
            ["task.docvqa.protocols.official.generation.max_new_tokens=5"],
        )
    }
    assert len(hashes) == 3
    with pytest.raises(ValueError, match=r"protocol of docvqa must be one of official, .*'other'"):
        finished(tmp_path, tmp_path, Answers(), "task.docvqa.protocol=other")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"docvqa/val_v1\.0_withQT\.json or .*val_v1\.0\.json"
    ):
        finished(tmp_path, tmp_path, Answers())


def test_remarks_name_the_judge_and_what_was_not_parsed(tmp_path: Path) -> None:
    judge = {"judge": "m", "wording": "abc", "replies": 4, "unparsed": 3}
    summary = {"notes": ["a note"], "judge": judge, "unparsed": ["1", "2", "3"], "questions": 4}
    said = "judge m, words abc, 4 replies, 3 of them could not be read"
    assert remarks(summary) == ["a note", said, "unparsed: 3 of 4 questions"]
    assert remarks({"questions": 4, "unparsed": []}) == []
    docvqa(tmp_path, questions=1)
    found = finished(tmp_path, tmp_path / "docvqa", Answers({"100": row("Word0")}))
    write_failures(tmp_path, {"docvqa": {**found, **summary}}, {"docvqa": []}, 1, {"docvqa": 1.0})
    page = (tmp_path / "report.html").read_text()
    assert said in page and "unparsed: 3 of 4 questions" in page
