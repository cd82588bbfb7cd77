"""Questions of a task are answered once each, whatever the batches, the interruptions and the ranks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hdvl.config import build, compose, to_plain
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.runner import Answers, Ranks, answer_samples, large_groups, own_questions
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.store import AnswerStore, read_answers
from hdvl.evaluation.task import Task, first_questions
from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.protocols import Message
from tests.evaluation.made_up import docvqa, png, write, write_tsv
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]


def task_of(*overrides: str) -> Task:
    config = to_plain(compose(*overrides, config_name="evaluate"))
    (node,) = config["task"].values()
    found: Task = build(node)
    return found


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder)


def ask(
    pipe: Pipeline, root: Path, out: Path, ranks: Ranks | None = None, **options: Any
) -> Answers:
    task = task_of("task=[docvqa]", "task.docvqa.protocols.official.generation.max_new_tokens=4")
    samples = task.samples(DataFolder(root))
    with AnswerStore(out, ranks.rank if ranks else 0) as store:
        return answer_samples(
            pipe, samples, task.chosen, store, identity="m", ranks=ranks or Ranks(), **options
        )


def test_answers_do_not_depend_on_batches_and_are_kept(pipe: Pipeline, tmp_path: Path) -> None:
    docvqa(tmp_path, questions=5)
    whole = ask(pipe, tmp_path, tmp_path / "one")
    assert list(whole.rows) == ["100", "101", "102", "103", "104"] and not whole.failed
    row = whole.rows["100"]
    assert row["prompt"].startswith("What is word 0?\nAnswer the question")
    assert row["images"][0]["size"] == [48, 40] and row["images"][0]["visual_tokens"] > 0

    # The process ends while it writes its third answer.
    file = tmp_path / "two" / "answers.rank0.jsonl"
    lines = (tmp_path / "one" / "answers.rank0.jsonl").read_bytes().splitlines(keepends=True)
    write(file, b"".join(lines[:2]) + lines[2][:20])
    single = Pipeline(model=pipe.model, engine={"max_slots": 1})
    again = ask(single, tmp_path, tmp_path / "two")
    assert again.rows == whole.rows
    assert len(read_answers(file)) == 5
    assert file.read_bytes().startswith(b"".join(lines[:2]))  # what was there is as it was
    size = file.stat().st_size
    ask(pipe, tmp_path, tmp_path / "two")
    assert file.stat().st_size == size  # nothing was asked again


@pytest.mark.slow
def test_what_changed_is_asked_anew(pipe: Pipeline, tmp_path: Path) -> None:
    docvqa(tmp_path, questions=4)
    ask(pipe, tmp_path, tmp_path / "out")
    write(tmp_path / "docvqa/documents/page1.png", png(9))
    file = tmp_path / "out" / "answers.rank0.jsonl"
    before = file.read_bytes()
    ask(pipe, tmp_path, tmp_path / "out")
    added = [json.loads(line) for line in file.read_bytes()[len(before) :].splitlines()]
    assert [row["id"] for row in added] == ["101", "103"]  # the questions about this page


def test_a_missing_image_fails_and_the_others_are_answered(pipe: Pipeline, tmp_path: Path) -> None:
    docvqa(tmp_path, questions=4)
    (tmp_path / "docvqa/documents/page0.png").unlink()
    write(tmp_path / "docvqa/documents/page1.png", b"no image")
    found = ask(pipe, tmp_path, tmp_path / "out")
    assert not found.rows and len(found.failed) == 4
    assert "page0.png" in found.failed["100"] and "there is no file" in found.failed["100"]
    assert "page1.png" in found.failed["101"]


def test_the_likeliest_option_is_the_answer(pipe: Pipeline, tmp_path: Path) -> None:
    row = {"index": "1", "question": "q", "A": "red", "B": "blue", "answer": "A"}
    write_tsv(tmp_path / "SEEDBench_IMG.tsv", [{**row, "image": png()}])
    task = task_of("task=[seedbench_img]")
    samples = task.samples(DataFolder(tmp_path))
    found = []
    for _ in range(2):  # the second time from the store
        with AnswerStore(tmp_path / "out") as store:
            options = {"identity": "m", "ranks": Ranks()}
            found.append(answer_samples(pipe, samples, task.chosen, store, **options))
    values = found[0].rows["1"]["log_probabilities"]
    expected = pipe.likelihood([Message("user", "q", (png(),))], ["red", "blue"])
    assert list(values.values()) == pytest.approx(expected, abs=1e-4)
    assert found[0].rows["1"]["answer"] == max(values, key=lambda letter: values[letter])
    assert found[0].rows == found[1].rows


def test_ranks_share_whole_groups() -> None:
    samples = [Sample(str(n), "q", group=str(n % 3)) for n in range(8)]
    parts = [own_questions(samples, Ranks(rank, 2)) for rank in range(2)]
    assert parts == [[0, 3, 6, 2, 5], [1, 4, 7]]
    alone = [Sample(str(n), "q") for n in range(5)]
    shares = [own_questions(alone, Ranks(rank, 4)) for rank in range(4)]
    assert sorted(number for share in shares for number in share) == list(range(5))


def test_groups_that_fill_half_of_the_slots_are_answered_alone() -> None:
    sizes = {"a": 4, "b": 3, "c": 9, "": 20}
    samples = [
        Sample(f"{name}{n}", "q", group=name) for name, size in sizes.items() for n in range(size)
    ]
    assert large_groups(samples, 8) == {"a", "c"}
    assert large_groups(samples, 1) == {"a", "b", "c"}


def test_a_store_is_written_by_one_process(tmp_path: Path) -> None:
    with AnswerStore(tmp_path), pytest.raises(ValueError, match="is being written by another"):
        AnswerStore(tmp_path).__enter__()


def test_a_limit_keeps_whole_groups_of_questions_from_files() -> None:
    task = Task("made", lambda folder, split: [], {"official": None})
    samples = [Sample(str(n), "q", group=str(n % 3)) for n in range(8)]
    assert [one.id for one in first_questions(task, samples, 2)] == ["0", "1", "3", "4", "6", "7"]
    with pytest.raises(ValueError, match="limit must be at least 1"):
        first_questions(task, samples, 0)
    made = first_questions(replace(task, generated=True), samples, 2)
    assert [one.id for one in made] == ["0", "1"]
