"""Reads ``metrics.csv`` without importing Lightning, so that comparing runs is fast."""

from pathlib import Path

Curve = dict[int, float]
"""The values of a metric by step, counted from 1."""


def read_curves(path: Path | str) -> dict[str, Curve]:
    """Return every metric of the file by its name. An incomplete last row is ignored."""
    curves: dict[str, Curve] = {}
    for line in Path(path).read_text().splitlines(keepends=True)[1:]:
        if line.endswith("\n"):
            step, name, value = line.rstrip("\n").split(",")
            curves.setdefault(name, {})[int(step)] = float(value)
    return curves
