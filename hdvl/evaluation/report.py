"""The report of a run: ``report.json``, ``scores.csv`` and ``report.html``."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.evaluation.earlier import CONFIG, REPORT
from hdvl.evaluation.page import card, protocol_details, write_page
from hdvl.evaluation.results import FAILED, RESULTS
from hdvl.evaluation.rows import read_rows
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.summary import HEADS, remarks, score_line, versions
from hdvl.files import read_json, write_text

DURATIONS = "durations.json"


def write_reports(
    folder: Path,
    summaries: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    cfg: Mapping[str, Any],
) -> Path:
    """Write the reports of all tasks to ``folder`` and return the path of ``report.json``.

    The report holds nothing that differs between two runs with equal answers, such as a time. In
    ``config.json`` the entries of tasks of earlier commands are kept.
    """
    report = {"model": model, "versions": versions(), "tasks": summaries}
    path = folder / REPORT
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n")
    write_text(folder / "scores.csv", scores_csv(summaries))
    earlier = read_json(folder / CONFIG)["task"] if (folder / CONFIG).is_file() else {}
    kept = ("data_dir", "limit", "official_random_seed")
    own = {
        name: {"node": node, **{key: cfg[key] for key in kept}}
        for name, node in cfg["task"].items()
    }
    plain = {"task": {**earlier, **own}}
    write_text(folder / CONFIG, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    return path


def write_failures(
    folder: Path,
    summaries: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, Sequence[Sample]],
    most: int,
    seconds: Mapping[str, float],
) -> Path:
    """Write ``report.html``: scores, questions that could not be asked, and answers that are not right.

    Of each task, up to ``most`` questions that could not be asked and up to ``most`` answers are shown.

    ``seconds`` are what this run took: the loading of the model and each task, with the answers that an
    earlier run had stored costing nothing. They are stored here and in ``durations.json`` and not in
    ``report.json``, which is equal for equal answers.
    """
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    write_text(folder / DURATIONS, json.dumps(rounded, indent=2) + "\n")
    cards = []
    for name, questions in samples.items():
        rows = read_results(folder / name)
        wrong = [
            one for one in questions if one.id in rows and (rows[one.id].get("score") or 0.0) < 1
        ]
        cards += [card(name, one, [("answer", rows[one.id])]) for one in wrong[:most]]
    lines = [score_line(name, one) for name, one in summaries.items()]
    tables: list[dict[str, Any]] = [{"title": "Scores", "heads": HEADS, "rows": lines}]
    tables += [
        published_table(name, one) for name, one in summaries.items() if one.get("published")
    ]
    said = [[name, line] for name, one in summaries.items() for line in remarks(one)]
    if said:
        tables.append({"title": "Remarks", "heads": ["task", ""], "rows": said})
    unasked = [row for name in samples for row in failed_rows(folder / name, name)[:most]]
    if unasked:
        heads = ["task", "question", "reason"]
        tables.append(
            {"title": "Questions that could not be asked", "heads": heads, "rows": unasked}
        )
    taken = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    tables.append({"title": "This run", "heads": ["", "seconds"], "rows": taken})
    details = protocol_details(summaries)
    shown = f"Answers that are wrong or have no score, up to {most} of each task"
    return write_page(
        folder / "report.html",
        "Evaluation",
        tables=tables,
        details=details,
        cards=cards,
        cards_title=shown,
    )


def failed_rows(folder: Path, name: str) -> list[list[str]]:
    """The questions of task ``name`` in ``folder`` that could not be asked, with the reasons."""
    rows = read_rows(folder / FAILED)
    return [[name, str(row["id"]), str(row["error"])] for row in rows]


def published_table(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The score of this run above the published ones, as a table of the page."""
    score = f"{summary['score']:.2f}" if "score" in summary else "-"
    rows = [["this run", str(summary.get("protocol", "")), score]]
    rows += [
        [model, "as published", f"{value:.2f}"] for model, value in summary["published"].items()
    ]
    return {
        "title": f"{name}: beside published scores",
        "heads": ["model", "protocol", summary.get("metric", "score")],
        "rows": rows,
    }


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of ``results.jsonl`` in the folder of a task, by id."""
    return {str(row["id"]): row for row in read_rows(folder / RESULTS)}


def scores_csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of scores as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    writer.writerows(score_line(name, one) for name, one in summaries.items())
    return text.getvalue()
