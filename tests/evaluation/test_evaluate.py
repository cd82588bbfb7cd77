"""``hdvl evaluate`` and ``hdvl evaluate diff`` from files to pages, and two ranks that are killed."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hdvl import evaluate, evaluate_diff
from hdvl.config import compose, to_plain
from hdvl.evaluation import report
from hdvl.evaluation.store import AnswerStore
from hdvl.files import read_json
from tests.evaluation.made_up import docvqa, png, write
from tests.tiny_model import tiny_folder
from tests.training.runs import free_ports

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
    taken = read_json(one / "durations.json")
    assert list(taken) == ["loading the model", "docvqa"] and "This run" in page
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
    page_of_report = (out / "report.html").read_text()
    assert page_of_report.count("there is no file") == 2 and "could not be asked" in page_of_report
    diff = to_plain(compose(f"runs=[{out},{out}]", config_name="evaluate_diff"))
    with pytest.raises(
        ValueError, match=r"docvqa has no score in .*: 2 of its questions could not"
    ):
        evaluate_diff.run(diff)
    write(page, png(1))
    assert run(tiny_folder, data, out)["tasks"]["docvqa"]["failed"] == []


@pytest.mark.slow
def test_mistakes_are_named(tmp_path: Path) -> None:
    def refused(*given: str) -> None:
        evaluate.run(to_plain(compose(*given, config_name="evaluate")), given)

    with pytest.raises(ValueError, match="task must be given"):
        refused()
    with pytest.raises(ValueError, match="data_dir must be given"):
        refused("task=docvqa")
    with pytest.raises(ValueError, match="data_dir must be an existing folder"):
        refused("task=docvqa", f"data_dir={tmp_path / 'none'}")
    with pytest.raises(FileNotFoundError, match=r"val_v1\.0\.json"):
        refused("task=docvqa", f"data_dir={tmp_path}")
    with pytest.raises(ValueError, match="runs must be two folders"):
        evaluate_diff.run(to_plain(compose(config_name="evaluate_diff")))


@dataclass(frozen=True)
class Kill:
    """Where ``rank`` is killed by signal 9: at its answer number ``answers``, or before the report.

    With ``half`` only a part of the line of that answer is in the file.
    """

    rank: int
    answers: int | None = None
    half: bool = False

    def arm(self, patch: pytest.MonkeyPatch, rank: int) -> None:
        """Make ``rank``, which this process is, end there; the other one stops at as many answers."""
        append, count = AnswerStore.append, 0

        def dying(store: AnswerStore, row: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count == self.answers and self.half and rank == self.rank:
                with store.path.open("ab") as file:
                    file.write(json.dumps(row).encode()[:20])
            elif count <= (self.answers or count):
                append(store, row)
            if count == self.answers and rank == self.rank:
                os.kill(os.getpid(), signal.SIGKILL)
            elif count == self.answers:
                signal.pause()

        def unwritten(*given: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(AnswerStore, "append", dying)
        if self.answers is None and rank == self.rank:
            patch.setattr(report, "write_reports", unwritten)


def one_rank(rank: int, port: int, given: list[str], kill: Kill | None) -> None:
    """One of two ranks, in a process of its own."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {**place, "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if kill is not None:
            kill.arm(patch, rank)
        evaluate.run(to_plain(compose(*given, config_name="evaluate")), given)


@pytest.mark.slow
def test_two_ranks_that_are_killed_give_the_report_of_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data, whole, parts = tmp_path / "data", tmp_path / "whole", tmp_path / "parts"
    docvqa(data, questions=31, pages=5)
    expected = run(tiny_folder, data, whole)
    given = words(tiny_folder, data, parts)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def two(kill: Kill | None) -> list[int | None]:
        (port,) = free_ports(1)
        ranks = [
            context.Process(target=one_rank, args=(rank, port, given, kill)) for rank in (0, 1)
        ]
        for process in ranks:
            process.start()
        if kill is not None:  # the other rank would wait for the one that is gone
            ranks[kill.rank].join(240)
            ranks[1 - kill.rank].kill()
        for process in ranks:
            process.join(240)
        return [process.exitcode for process in ranks]

    def answered() -> list[str]:
        files = parts.glob("docvqa/answers.rank*.jsonl")
        lines = [line for file in files for line in file.read_bytes().splitlines()]
        return [json.loads(line)["id"] for line in lines if line.endswith(b"}")]

    kills = (Kill(0, 1), Kill(1, 2), Kill(0, 3, half=True), Kill(1, 4, half=True), Kill(0))
    for kill in kills:
        before = answered()
        assert two(kill)[kill.rank] == -signal.SIGKILL
        assert len(answered()) >= len(before) + (kill.answers is not None and not kill.half)
        assert not (parts / "report.json").exists()
    assert two(None) == [0, 0]
    assert sorted(answered()) == sorted(str(100 + number) for number in range(31))  # once each
    assert read_json(parts / "report.json")["tasks"] == expected["tasks"]
    assert (parts / "docvqa/results.jsonl").read_bytes() == (
        whole / "docvqa/results.jsonl"
    ).read_bytes()
