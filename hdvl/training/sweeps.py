"""Results of sweeps: a folder with a numbered run for each job, and a table of choices, status and losses."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hdvl.files import atomic_write, write_text
from hdvl.tables import duration, table
from hdvl.training.curves import Curve, read_curves

JOB = "job.json"
TABLE, PLOT = "sweep.csv", "sweep.png"
FINISHED, RUNNING = "finished", "running"
_MEASURES = {
    "train loss": "train/loss",
    "validation loss": "validation/loss",
    "answers": "validation/answers",
}


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    ``choices`` are the keys and values of its command line, ``status`` is ``finished``, ``running``,
    ``stopped`` or ``failed: REASON``, and ``seconds`` is its duration, None while it is running.
    """

    folder: Path
    choices: Mapping[str, str]
    status: str
    seconds: float | None

    @property
    def number(self) -> int:
        """The number of the job, from 0, which is the name of its folder."""
        return int(self.folder.name)

    def curves(self) -> dict[str, Curve]:
        """The metrics of its last stage."""
        files = sorted(self.folder.glob("**/metrics.csv"))
        return read_curves(files[-1]) if files else {}

    def measures(self) -> dict[str, float | None]:
        """Training loss (mean of the last 5 %), last validation loss, last share of right answers."""
        curves, found = self.curves(), dict[str, float | None]()
        for title, name in _MEASURES.items():
            values = list(curves.get(name, {}).values())
            tail = values[-max(1, len(values) // 20) :] if name == "train/loss" else values[-1:]
            found[title] = sum(tail) / len(tail) if tail else None
        return found

    def objective(self) -> float | None:
        """The value to minimise: the validation loss, or the training loss without validation."""
        measures = self.measures()
        found = measures["validation loss"]
        return measures["train loss"] if found is None else found


def write_job(
    folder: Path, choices: Mapping[str, str], status: str, seconds: float | None = None
) -> None:
    """Write ``folder/job.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"choices": dict(choices), "status": status, "seconds": seconds}
    write_text(folder / JOB, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_job(folder: Path) -> Job:
    """Read the job of the run in ``folder``."""
    content: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return Job(folder, content["choices"], content["status"], content["seconds"])


def read_jobs(sweep: Path) -> list[Job]:
    """Read the jobs in the folder of a sweep, in order; empty if it is not a sweep."""
    folders = [path.parent for path in sweep.glob(f"*/{JOB}") if path.parent.name.isdigit()]
    return sorted(map(read_job, folders), key=lambda job: job.number)


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values differ between the jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.choices)
    return [key for key in keys if len({job.choices.get(key) for job in jobs}) > 1]


def label(job: Job, keys: Sequence[str]) -> str:
    """Return the values of the keys that distinguish a job."""
    chosen = " ".join(f"{key}={job.choices[key]}" for key in keys if key in job.choices)
    return chosen or f"job {job.number}"


def best_first(jobs: Sequence[Job]) -> list[Job]:
    """Return the finished jobs sorted by objective, then the others."""

    def order(job: Job) -> tuple[bool, float, int]:
        objective = job.objective()
        known = objective is not None and objective == objective
        ended = job.status == FINISHED and known
        return not ended, objective if known and objective is not None else 0.0, job.number

    return sorted(jobs, key=order)


def sweep_rows(jobs: Sequence[Job]) -> list[list[str]]:
    """Return a header and one row for each job, the best first: choices, measures, steps, time, status."""
    keys = swept_keys(jobs)
    rows = [["job", *keys, *_MEASURES, "steps", "time", "status"]]
    for job in best_first(jobs):
        measures = ["" if value is None else f"{value:.4g}" for value in job.measures().values()]
        steps = max((step for curve in job.curves().values() for step in curve), default=0)
        time = "" if job.seconds is None else duration(job.seconds)
        chosen = [_rounded(job.choices.get(key, "")) for key in keys]
        rows.append([str(job.number), *chosen, *measures, str(steps), time, job.status])
    return rows


def _rounded(value: str) -> str:
    """Return a number chosen by a sweeper rounded to six digits; other values are unchanged."""
    try:
        return f"{float(value):.6g}" if len(value) > 12 else value
    except ValueError:
        return value


def sweep_text(jobs: Sequence[Job]) -> str:
    """Return the rows as a table for the terminal, with shortened reasons of failures."""
    rows = [
        [*row[:-1], row[-1] if len(row[-1]) <= 60 else f"{row[-1][:59]}…"]
        for row in sweep_rows(jobs)
    ]
    first = 1 + len(swept_keys(jobs))
    return table(rows, right=tuple(range(first, first + len(_MEASURES) + 2)))


def write_report(sweep: Path, jobs: Sequence[Job]) -> list[Path]:
    """Write ``sweep.csv``, and ``sweep.png`` if matplotlib is installed, and return the files."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sweep_rows(jobs))
    write_text(sweep / TABLE, text.getvalue())
    if find_spec("matplotlib") is None:
        return [sweep / TABLE]
    return [sweep / TABLE, _plot(sweep / PLOT, jobs)]


def _plot(path: Path, jobs: Sequence[Job]) -> Path:
    """Plot the losses of all jobs above their table."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows, keys = sweep_rows(jobs), swept_keys(jobs)
    height = 4.5 + 0.28 * len(rows)
    figure = Figure(figsize=(11, height), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[4.5, height - 4.5])
    for job in best_first(jobs):
        curves = job.curves()
        name = "validation/loss" if "validation/loss" in curves else "train/loss"
        curve = curves.get(name, {})
        if curve:
            text = f"{job.number}: {label(job, keys)} ({name.partition('/')[0]})"
            axes.plot(list(curve), list(curve.values()), marker=".", label=text)
    axes.set(xlabel="step", ylabel="loss", title=path.parent.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    below.axis("off")
    shortened = [[cell if len(cell) <= 28 else f"{cell[:27]}…" for cell in row] for row in rows]
    drawn = below.table(shortened[1:], colLabels=shortened[0], loc="upper center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.auto_set_column_width(list(range(len(rows[0]))))
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)
    return path
