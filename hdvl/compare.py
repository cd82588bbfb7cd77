"""``hdvl compare``: prints the differences between the configs and the metrics of runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.command import command
from hdvl.plain import flatten
from hdvl.sequences import one_or_several
from hdvl.tables import table

ABSENT = "-"
OWN = ("run_dir", "resume")
"""Keys that differ between any two runs."""


def config_table(runs: Sequence[Path]) -> list[list[str]]:
    """Return a row for each key whose values differ between the runs.

    Raises:
        ValueError: a folder does not exist, or has no ``train.yaml``.
    """
    import yaml

    configs = []
    for run in runs:
        path = run / "train.yaml"
        if not run.is_dir():
            raise ValueError(f"each of runs must be a run folder, there is no folder {str(run)!r}")
        if not path.is_file():
            raise ValueError(f"each of runs must be a run folder, {str(run)!r} has no train.yaml")
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        configs.append({key: value for key, value in flatten(plain) if key not in OWN})
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = []
    for key in keys:
        values = [str(config[key]) if key in config else ABSENT for config in configs]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return rows


def metric_table(
    runs: Sequence[Path], names: Sequence[str] | None, share: float
) -> list[list[str]]:
    """Return rows with the last value of each metric of each stage, and for losses and hit rates the best.

    Args:
        runs: the run folders.
        names: the metrics to compare; ``None`` for the default selection.
        share: the share of a curve, counted from its end, whose mean is the last value.

    Returns:
        A row for each metric with a value for each run, and with the difference if there are two runs.
    """
    from hdvl.training.curves import Curve, read_curves

    found: list[dict[str, Curve]] = []
    for run in runs:
        curves: dict[str, Curve] = {}
        for file in sorted(run.glob("**/metrics.csv")):
            stage = file.parent.relative_to(run).as_posix()
            prefix = "" if stage == "." else f"{stage} "
            curves |= {f"{prefix}{name}": curve for name, curve in read_curves(file).items()}
        found.append(curves)
    rows = []
    for name in dict.fromkeys(name for curves in found for name in curves):
        metric = name.split(" ")[-1]
        if not is_selected(metric, names):
            continue
        for label, numbers in values(metric, [curves.get(name) for curves in found], share):
            rows.append([f"{name}{label}", *_cells(numbers)])
    steps = [max((max(c) for c in curves.values()), default=None) for curves in found]
    return [["steps", *_cells(steps)], *rows]


def is_selected(metric: str, names: Sequence[str] | None) -> bool:
    """Return whether a metric is compared."""
    if names is not None:
        return metric in names
    return metric == "train/loss" or metric.startswith(("validation/", "evaluation/", "total/"))


def values(
    metric: str, curves: Sequence[Any], share: float
) -> Iterator[tuple[str, list[float | None]]]:
    """Yield the rows of a metric: (label, values of the runs)."""
    if metric.startswith("total/"):
        yield "", [None if curve is None else list(curve.values())[-1] for curve in curves]
        return
    yield " last", [None if curve is None else last(curve, share) for curve in curves]
    best = min if metric.endswith("loss") else max
    yield " best", [None if curve is None else best(curve.values()) for curve in curves]


def last(curve: Mapping[int, float], share: float) -> float:
    """Return the mean of the last ``share`` of a curve, of at least one value."""
    numbers = list(curve.values())
    tail = numbers[-max(1, round(share * len(numbers))) :]
    return sum(tail) / len(tail)


def _cells(numbers: Sequence[float | None]) -> list[str]:
    cells = [ABSENT if number is None else _shown(number) for number in numbers]
    if len(numbers) == 2:
        one, other = numbers
        known = one is not None and other is not None
        cells.append(_shown(other - one, "+") if known else "")  # type: ignore[operator]
    return cells


def _shown(number: float, sign: str = "") -> str:
    """Format a number without an exponent, counts with separators.

    >>> _shown(177700.0), _shown(0.663741), _shown(-138586.0, "+")
    ('177,700', '0.663741', '-138,586')
    """
    return f"{number:{sign},.0f}" if abs(number) >= 1000 else f"{number:{sign}.{4 if sign else 6}g}"


def sweep_tables(folders: Sequence[Path]) -> str | None:
    """Return a table of the jobs of each sweep, the best job first; ``None`` if no folder is a sweep.

    Raises:
        ValueError: some folders are sweeps, and others are not.
    """
    from hdvl.training.sweeps import read_jobs, sweep_text

    sweeps = {folder: read_jobs(folder) for folder in folders}
    if not any(sweeps.values()):
        return None
    for folder, jobs in sweeps.items():
        if not jobs:
            raise ValueError(
                f"runs must all be sweeps or all be runs, {str(folder)!r} is no sweep; name the jobs of a "
                f"sweep as runs, such as {next(f for f, j in sweeps.items() if j)}/0"
            )
    return "\n\n".join(f"{folder}\n{sweep_text(jobs)}" for folder, jobs in sweeps.items())


def run(plain: Mapping[str, Any]) -> None:
    """Print the tables of configs and metrics, or those of sweeps.

    Raises:
        ValueError: fewer than two runs are given, or a folder is not a run.
    """
    if plain["runs"] is None:
        raise ValueError("runs must be given: hdvl compare RUN RUN, or hdvl compare SWEEP")
    runs = [Path(str(folder)) for folder in plain["runs"]]
    text = sweep_tables(runs)
    if text is not None:
        print(text)
        return
    if len(runs) < 2:
        raise ValueError(f"runs must be at least two folders, got {len(runs)}")
    if not 0 <= plain["last"] <= 1:
        raise ValueError(f"last must be a share in 0..1, got {plain['last']}")
    names = one_or_several(plain["metrics"] or (), "metrics") or None
    heads = [str(folder) for folder in runs]
    different = config_table(runs)
    print("config" if different else "the configs are the same")
    if different:
        print(table([["key", *heads], *different]))
    rows = metric_table(runs, names, plain["last"])
    difference = ["difference"] if len(runs) == 2 else []
    print("\nmetrics")
    columns = tuple(range(1, len(runs) + 1 + len(difference)))
    print(table([["", *heads, *difference], *rows], right=columns))


def main() -> None:
    """Run the command."""
    command("compare", run)


if __name__ == "__main__":
    main()
