"""Every choice of the group ``task`` is a benchmark that can be built under each of its protocols."""

from pathlib import Path

import pytest

from hdvl.config import CONF_DIR, build, compose, to_plain
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.task import PROTOCOLS, Task

FILES = [path for path in sorted((CONF_DIR / "task").glob("*.yaml")) if path.stem != "suite"]
"""Every task; ``suite`` is a list of some."""
SAMPLE = Sample(
    "1",
    "What?",
    options={"A": "x", "B": "y"},
    answers=("A",),
    extra={
        **{"ocr": "z", "instruction": "Answer.", "raw_options": "(a) b", "lmms_eval": "x"},
        **{"bare": "What", "bare_instruction": "Answer."},
    },
)


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_task_builds_and_words_its_questions(path: Path) -> None:
    config = to_plain(compose(f"task=[{path.stem}]", config_name="evaluate"))
    task = build(config["task"][path.stem])
    assert isinstance(task, Task) and task.name == path.stem
    assert set(task.protocols) <= set(PROTOCOLS), "a protocol of another name"
    for protocol in task.protocols.values():
        assert "{" not in protocol.text(SAMPLE)
        assert protocol.candidates in (None, "letter", "text")


def test_several_tasks_are_composed_together() -> None:
    config = to_plain(compose("task=[docvqa,chartqa]", config_name="evaluate"))
    assert list(config["task"]) == ["docvqa", "chartqa"]
