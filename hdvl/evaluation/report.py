"""The report of a run: ``report.json``, ``scores.csv`` and ``report.html``."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.evaluation.summary import HEADS, score_line, versions
from hdvl.files import write_text


def write_reports(
    folder: Path,
    summaries: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    cfg: Mapping[str, Any],
) -> Path:
    """Write the reports of all tasks to ``folder`` and return the path of ``report.json``.

    The report holds nothing that differs between two runs with equal answers, such as a time.
    """
    report = {"model": model, "versions": versions(), "tasks": summaries}
    path = folder / "report.json"
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n")
    write_text(folder / "scores.csv", scores_csv(summaries))
    return path


def scores_csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of scores as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    writer.writerows(score_line(name, one) for name, one in summaries.items())
    return text.getvalue()
