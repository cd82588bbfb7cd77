"""Sampled answers of validation rows equal those of the pipeline, and are logged with the true answers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hdvl.callbacks.answers import Answers, append, prompt_of, spread
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.protocols import Message
from hdvl.training.metrics import read_metrics
from hdvl.training.run import run
from tests.training.runs import COLOURS, Colours, Feeder, config


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_answers_of_each_validation(watched: Path) -> None:
    lines = [json.loads(line) for line in (watched / "answers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2] * 4 + [4] * 4
    assert {line["row"] for line in lines} == {f"conversation {n}" for n in (0, 2, 5, 7)}
    for line in lines:
        assert line["question"] == "Colour?"
        assert line["truth"] == list(COLOURS)[int(line["row"].split()[1]) % 4]
    events = EventAccumulator(str(watched), size_guidance={"tensors": 0})
    events.Reload()
    assert len(events.Tensors("answers/text_summary")) == 2


class Holes(Colours):
    """Colours whose images 0 and 5, of which answers are drawn, and 1 are missing."""

    def __getitem__(self, index: int) -> list[Message]:
        question, answer = super().__getitem__(index)
        missing = (Path("none.png"),) if index in (0, 1, 5) else question.images
        return [replace(question, images=missing), answer]


class Holed(Feeder):
    """Validates on colours with holes, one at a time; all rows may be left out."""

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        data = super().__call__(config, vlm, seed=seed)
        data.validation, data.bad.max_bad = Holes(), 1.0
        return data


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_missing_image_is_left_out_of_validation_and_its_answers(tmp_path: Path) -> None:
    run(
        config(
            tmp_path / "run",
            "data.batch_size=1",
            "trainer.val_check_interval=4",
            "callbacks.answers.max_new_tokens=4",
            "trainer.logger=[{_target_: hdvl.training.metrics.MetricsFile, folder: '${run_dir}'}]",
        ),
        Holed(),
    )
    text = (tmp_path / "run" / "answers.jsonl").read_text()
    rows = {json.loads(line)["row"] for line in text.splitlines()}
    assert rows == {"conversation 2", "conversation 7"}
    for name in ("validation/answers", "validation/loss"):
        values = read_metrics(tmp_path / "run" / "metrics.csv", name)
        assert values and all(math.isfinite(value) for value in values.values())


def test_the_prompt_ends_before_the_first_answer() -> None:
    talk = [Message("system", "s"), Message("user", "a"), Message("assistant", "b")]
    assert prompt_of([*talk, *talk[1:]]) == talk[:2]


def test_conversations_are_spread() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 8) == [0, 1, 2]


def test_lines_after_a_checkpoint_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "answers.jsonl"
    for step in (2, 4, 6, 4):
        append(path, step, [("row 1", "Größe?", "a|b\nc", str(step))])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[1] == {
        "step": 4,
        "row": "row 1",
        "question": "Größe?",
        "answer": "a|b\nc",
        "truth": "4",
    }
    assert [file.name for file in path.parent.iterdir()] == ["answers.jsonl"]


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(
        ValueError, match="count and max_new_tokens must be at least 1 and shown at"
    ):
        Answers(folder=".", count=0)
