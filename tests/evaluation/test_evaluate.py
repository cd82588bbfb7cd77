"""``hdvl evaluate`` and ``hdvl evaluate diff`` from files to pages, and two ranks that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hdvl import evaluate, evaluate_diff
from hdvl.config import compose, to_plain
from hdvl.files import read_json
from tests.evaluation.made_up import docvqa, picture, write
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
SHORT = "task.docvqa.protocols.official.generation.max_new_tokens=4"


def words(tiny: Path, data: Path, out: Path) -> list[str]:
    return ["task=[docvqa]", f"data_dir={data}", f"outputs={out}", f"checkpoint={tiny}", SHORT]


def run(tiny: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    given = [*words(tiny, data, out), *more]
    evaluate.run(to_plain(compose(*given, config_name="evaluate")), given)
    report: dict[str, Any] = read_json(out / "report.json")
    return report


@pytest.mark.slow
def test_a_report_shows_failures_with_their_images(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, one, other = tmp_path / "data", tmp_path / "one", tmp_path / "other"
    docvqa(data, questions=3)
    report = run(tiny_folder, data, one)
    said = capsys.readouterr()
    assert "docvqa  official  ANLS" in said.out
    assert report["tasks"]["docvqa"]["cost"]["tiles_per_image"] > 1
    page = (one / "report.html").read_text()
    assert page.count("<section") == 3 and page.count("data:image/jpeg;base64,") == 3
    assert "http" not in page and "What is word 0?" in page
    assert run(tiny_folder, data, one) == report  # nothing is asked again, and nothing differs

    # Another model, which is right in one question.
    run(tiny_folder, data, other, "system=Read.")
    rows = [json.loads(line) for line in (other / "docvqa/results.jsonl").read_text().splitlines()]
    rows[0]["score"] = 1.0
    write(other / "docvqa/results.jsonl", rows)
    capsys.readouterr()
    given = [f"runs=[{one},{other}]", f"out={tmp_path / 'diff.html'}"]
    evaluate_diff.run(to_plain(compose(*given, config_name="evaluate_diff")))
    assert "docvqa  3          +33.33" in capsys.readouterr().out
    assert (tmp_path / "diff.html").read_text().count("<section") >= 1


def test_failed_questions_end_the_command_and_are_asked_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    docvqa(data, questions=4)
    page = data / "docvqa/documents/page1.png"
    page.unlink()
    with pytest.raises(ValueError, match=r"2 of docvqa could not be asked, .* have no score"):
        run(tiny_folder, data, out)
    assert "score" not in read_json(out / "report.json")["tasks"]["docvqa"]
    write(page, picture(1))
    assert run(tiny_folder, data, out)["tasks"]["docvqa"]["failed"] == []


def test_mistakes_are_named(tmp_path: Path) -> None:
    def refused(*given: str) -> None:
        evaluate.run(to_plain(compose(*given, config_name="evaluate")), given)

    with pytest.raises(ValueError, match="task must be given"):
        refused()
    with pytest.raises(ValueError, match="data_dir must be given"):
        refused("task=docvqa")
    with pytest.raises(ValueError, match="data_dir must be a folder"):
        refused("task=docvqa", f"data_dir={tmp_path / 'none'}")
    with pytest.raises(FileNotFoundError, match=r"val_v1\.0\.json"):
        refused("task=docvqa", f"data_dir={tmp_path}")
    with pytest.raises(ValueError, match="runs must be two folders"):
        evaluate_diff.run(to_plain(compose(config_name="evaluate_diff")))


@pytest.mark.slow
def test_two_ranks_that_are_killed_give_the_report_of_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data, whole, parts = tmp_path / "data", tmp_path / "whole", tmp_path / "parts"
    docvqa(data, questions=31, pictures=5)
    expected = run(tiny_folder, data, whole)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=0", "--standalone", "-m", "hdvl.evaluate"]
    command += words(tiny_folder, data, parts)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)

    def answered() -> list[str]:
        files = parts.glob("docvqa/answers.rank*.jsonl")
        lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
        return [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]

    for least in (3, 12):
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 240
        while len(answered()) < least and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(answered()) >= least
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(answered()) == sorted(str(100 + number) for number in range(31))  # once each
    assert read_json(parts / "report.json")["tasks"] == expected["tasks"]
    assert (parts / "docvqa/results.jsonl").read_bytes() == (
        whole / "docvqa/results.jsonl"
    ).read_bytes()
