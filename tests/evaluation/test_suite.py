"""The suite as a task: its questions, the changes of the tiler, and the curves."""

import csv
import math
from pathlib import Path

import pytest

from hdvl import evaluate
from hdvl.config import compose, to_plain
from hdvl.evaluation.curves import TABLE, point, write_curves
from hdvl.evaluation.datasets.suite import VALUES, suite
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.runner import with_tiler
from hdvl.evaluation.samples import Sample
from hdvl.files import read_json
from hdvl.processor import Processor
from hdvl.tilers import SlidingWindow
from tests.tiny_model import tiny_folder, tiny_vlm

__all__ = ["tiny_folder"]
NOWHERE = DataFolder(Path("none"))
FEW = {name: values[:1] for name, values in VALUES.items()}


@pytest.mark.parametrize("task", ["reading", "locating", "counting", "comparing"])
def test_questions_are_unique_and_cover_every_factor(task: str) -> None:
    samples = suite(NOWHERE, "", task=task, pages=2, per_page=2, values=FEW)  # type: ignore[arg-type]
    assert len({one.id for one in samples}) == len(samples)
    assert {kind for one in samples for kind in one.categories} == set(FEW)
    assert suite(NOWHERE, "", task=task, pages=2, per_page=2, values=FEW) == samples  # type: ignore[arg-type]
    first = [one.group for one in samples if one.group.endswith("/0")]
    assert [one.group for one in samples[: len(first)]] == first  # limit shortens all curves alike


def test_comparisons_have_both_answers_and_two_images() -> None:
    samples = suite(NOWHERE, "", task="comparing", pages=6, values={name: [] for name in VALUES})
    assert {one.answer for one in samples} == {"Picture 1", "Picture 2"}
    assert all(len(one.images) == 2 for one in samples)


def test_a_question_may_change_the_tiler() -> None:
    processor = Processor.of(tiny_vlm())
    assert isinstance(processor.tiler, SlidingWindow)
    changed = with_tiler(processor, {"max_tiles": 1}).tiler
    assert isinstance(changed, SlidingWindow) and changed.plan(500, 500).count == 1
    assert with_tiler(processor, {}) is processor
    with pytest.raises(ValueError, match="changes window of the tiler, SlidingWindow has none"):
        with_tiler(processor, {"window": 1})


def test_points_have_intervals_and_costs(tmp_path: Path) -> None:
    samples = [Sample(str(n), "", group=str(n // 2)) for n in range(8)]
    image = {"tiles": 3, "visual_tokens": 10, "size": [9, 9], "resized": [9, 9]}
    mixed = {str(n): {"score": float(n % 4 == 0), "images": [image]} for n in range(8)}
    wrong = {name: {**row, "score": 0.0} for name, row in mixed.items()}
    one = point("reading", "rotation", "2", samples, mixed)
    assert (one.accuracy, one.pages, one.tiles) == (25.0, 4, 3.0)
    assert one.low < 25 < one.high
    none = point("reading", "rotation", "3", samples, wrong)
    assert none.low == 0 and math.isclose(none.high, 48.99, abs_tol=0.01)  # Wilson, 0 of 4
    files = write_curves(tmp_path, [one, none])
    assert files[0].name == TABLE and all(file.stat().st_size for file in files)
    rows = list(csv.DictReader((tmp_path / TABLE).read_text().splitlines()))
    assert [row["value"] for row in rows] == ["2", "3"] and rows[0]["accuracy"] == "25.00"


@pytest.mark.slow
def test_the_command_needs_no_files_and_draws_curves(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        *("task=[suite_counting]", f"checkpoint={tiny_folder}", f"outputs={tmp_path}"),
        *("task.suite_counting.read.pages=1", "limit=2", "tiler.max_tiles=2"),
        "task.suite_counting.protocols.official.generation.max_new_tokens=2",
    ]
    evaluate.run(to_plain(compose(*given, config_name="evaluate")), given)
    assert "curves.csv" in capsys.readouterr().out
    assert len((tmp_path / TABLE).read_text().splitlines()) > 2
    assert read_json(tmp_path / "report.json")["tasks"]["suite_counting"]["score"] == 0.0
