"""The table of a sweep: choices that differ, measures, the best first, and jobs that failed last."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from hdvl.training.sweeps import (
    best_first,
    read_jobs,
    sweep_rows,
    sweep_text,
    swept_keys,
    write_job,
    write_report,
)

LOSSES = {"0": (2.0, 1.5), "1": (2.0, 0.5), "2": ()}
STATUS = {"0": "finished", "1": "finished", "2": "failed: rows are missing"}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number, losses in LOSSES.items():
        folder = tmp_path / "sweep" / number
        choices = {"data": "llava", "bridge": f"kind{number}", "seed": "1"}
        write_job(folder, choices, STATUS[number], 75.0)
        rows = [f"{step},validation/loss,{loss}\n" for step, loss in enumerate(losses, 1)]
        if rows:
            rows.append("2,train/loss,0.25\n")
            (folder / "metrics.csv").write_text("step,name,value\n" + "".join(rows))
    (tmp_path / "sweep" / "notes").mkdir()
    return tmp_path / "sweep"


def test_rows_have_what_differs_and_the_best_comes_first(sweep: Path) -> None:
    jobs = read_jobs(sweep)
    assert [job.number for job in jobs] == [0, 1, 2] and swept_keys(jobs) == ["bridge"]
    assert [job.number for job in best_first(jobs)] == [1, 0, 2]
    head, best, *_, last = sweep_rows(jobs)
    assert head == [
        "job",
        "bridge",
        "train loss",
        "validation loss",
        "answers",
        "steps",
        "time",
        "status",
    ]
    assert best == ["1", "kind1", "0.25", "0.5", "", "2", "1:15", "finished"]
    assert last == ["2", "kind2", "", "", "", "0", "1:15", "failed: rows are missing"]


def test_the_report_is_text_csv_and_an_image(sweep: Path) -> None:
    jobs = read_jobs(sweep)
    assert sweep_text(jobs).splitlines()[1].split()[:3] == ["1", "kind1", "0.25"]
    files = write_report(sweep, jobs)
    assert [file.name for file in files] == ["sweep.csv", "sweep.png"]
    with files[0].open() as file:
        assert list(csv.reader(file)) == sweep_rows(jobs)
    with Image.open(files[1]) as image:
        assert image.width > 800


def test_a_folder_without_jobs_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    assert read_jobs(tmp_path) == []


def test_a_job_that_is_running_has_no_objective_yet(tmp_path: Path) -> None:
    write_job(tmp_path / "0", {"seed": "1"}, "running")
    (job,) = read_jobs(tmp_path)
    assert job.objective() is None and job.seconds is None
    assert sweep_rows([job])[1] == ["0", "", "", "", "0", "", "running"]
