"""Tasks of the project's configuration on small files, for the tests."""

from pathlib import Path
from typing import Any

from hdvl import score
from hdvl.config import build, compose, to_plain
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.task import Task
from hdvl.files import read_json


def opened(name: str, root: Path, *overrides: str) -> tuple[Task, list[Sample]]:
    """A task with its questions, read from the folder ``root``."""
    config = to_plain(compose(f"task=[{name}]", *overrides, config_name="evaluate"))
    task: Task = build(config["task"][name])
    return task, task.samples(DataFolder(root))


def scored(name: str, root: Path, answers: Any, *overrides: str) -> Scores:
    """Scores of answers by id, or of one answer to every question."""
    task, samples = opened(name, root, *overrides)
    assert all(task.chosen.text(one) for one in samples)
    given = answers if isinstance(answers, dict) else {one.id: answers for one in samples}
    return task.score(samples, given)


def scored_file(root: Path, name: str, predictions: Path, *overrides: str) -> dict[str, Any]:
    """The report of ``hdvl score`` about a file of predictions."""
    words = [f"predictions={predictions}", f"data_dir={root}", f"out={root / 'out.json'}"]
    score.run(to_plain(compose(f"task=[{name}]", *words, *overrides, config_name="score")))
    report: dict[str, Any] = read_json(root / "out.json")
    return report
