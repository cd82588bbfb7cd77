"""Accuracy by factors of difficulty: ``curves.csv`` and ``curves.png``."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hdvl.evaluation.samples import Sample
from hdvl.evaluation.statistics import uncertainty
from hdvl.evaluation.summary import costs
from hdvl.files import atomic_write, write_text

TABLE, PLOT = "curves.csv", "curves.png"


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        task: the task.
        factor: the name of the factor that varies.
        value: its value.
        questions, pages: how many there are.
        accuracy: share of right answers in per cent.
        low, high: interval of 95 per cent: a bootstrap over pages, or where all pages score alike, which a
            bootstrap takes for certain, Wilson's interval for the number of pages.
        tiles, visual_tokens: means over the images.
        reduced: number of images whose area was reduced.
    """

    task: str
    factor: str
    value: str
    questions: int
    pages: int
    accuracy: float
    low: float
    high: float
    tiles: float
    visual_tokens: float
    reduced: int


def points(
    task: str, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]
) -> list[Point]:
    """The points of every curve of a task.

    Args:
        task: its name.
        samples: its questions; each kind of their categories is a factor.
        rows: the rows of ``results.jsonl`` by id, with their scores.
    """
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        for kind, value in sample.categories.items():
            groups.setdefault((kind, value), []).append(sample)
    return [
        point(task, kind, value, members, rows)
        for (kind, value), members in sorted(groups.items(), key=lambda one: _order(*one[0]))
    ]


def point(
    task: str,
    factor: str,
    value: str,
    samples: Sequence[Sample],
    rows: Mapping[str, Mapping[str, Any]],
) -> Point:
    """The point of some questions."""
    scores = {one.id: float(rows[one.id]["score"]) for one in samples}
    found = uncertainty(samples, scores, scale=100.0)
    accuracy = 100.0 * sum(scores.values()) / len(scores)
    cost = costs([rows[one.id] for one in samples])
    return Point(
        task,
        factor,
        value,
        len(samples),
        found.groups,
        accuracy,
        found.low,
        found.high,
        cost["tiles_per_image"],
        cost["visual_tokens_per_image"],
        int(cost["reduced_images"]),
    )


def _order(kind: str, value: str) -> tuple[str, float]:
    """Numbers by their size; other values keep the order in which they occur."""
    try:
        return kind, float(value)
    except ValueError:
        return kind, 0.0


def write_curves(folder: Path, found: Sequence[Point]) -> list[Path]:
    """Write ``curves.csv``, and ``curves.png`` if matplotlib is installed; returns the files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point.__dataclass_fields__)
    for one in found:
        cells = asdict(one).values()
        writer.writerow(f"{cell:.2f}" if isinstance(cell, float) else cell for cell in cells)
    write_text(folder / TABLE, text.getvalue())
    if find_spec("matplotlib") is None:
        return [folder / TABLE]
    return [folder / TABLE, plot(folder / PLOT, found)]


def plot(path: Path, found: Sequence[Point]) -> Path:
    """Draw one panel for each factor, with a line and its intervals for each task."""
    from matplotlib.figure import Figure

    factors = list(dict.fromkeys(one.factor for one in found))
    tasks = list(dict.fromkeys(one.task for one in found))
    columns = min(4, len(factors))
    rows = -(-len(factors) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, factor in zip(panels, factors, strict=False):
        values = list(dict.fromkeys(one.value for one in found if one.factor == factor))
        for number, task in enumerate(tasks):
            own = [one for one in found if one.factor == factor and one.task == task]
            shift = 0.06 * (
                number - (len(tasks) - 1) / 2
            )  # so that intervals do not hide each other
            places = [values.index(one.value) + shift for one in own]
            heights = [one.accuracy for one in own]
            errors = [
                [max(0.0, one.accuracy - one.low) for one in own],
                [max(0.0, one.high - one.accuracy) for one in own],
            ]
            panel.errorbar(places, heights, errors, marker="o", ms=4, lw=1.2, capsize=2, label=task)
        panel.set_xticks(range(len(values)), values)
        panel.set(xlabel=factor, ylabel="right answers (%)", ylim=(-4, 104))
        panel.grid(alpha=0.3)
    for panel in panels[len(factors) :]:
        panel.axis("off")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tasks)
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path
