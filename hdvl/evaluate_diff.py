"""``hdvl evaluate diff``: two evaluations compared question by question."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.command import command
from hdvl.tables import table

HEADS = ["task", "questions", "difference", "95 % interval", "better", "worse", "p", "test"]


def scores_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a task that have a score, by id."""
    from hdvl.evaluation.report import read_results

    rows = read_results(folder)
    return {name: row for name, row in rows.items() if row.get("score") is not None}


def tasks_of(runs: list[Path]) -> list[str]:
    """The tasks that both runs have. Raises ``ValueError`` if a folder is no evaluation, or there is none."""
    from hdvl.evaluation.results import RESULTS

    found = [{path.parent.name for path in run.glob(f"*/{RESULTS}")} for run in runs]
    for run, names in zip(runs, found, strict=True):
        if not names:
            raise ValueError(f"runs must be folders of hdvl evaluate, {str(run)!r} has no results")
    common = sorted(found[0] & found[1])
    if not common:
        raise ValueError("the runs must have a task in common, they have none")
    return common


def without_score(name: str, run: Path) -> str | None:
    """Why a run has no score of a task; ``None`` if it has one."""
    from hdvl.evaluation.results import FAILED
    from hdvl.evaluation.rows import read_rows

    if scores_of(run / name):
        return None
    file = run / name / FAILED
    failed = sum(1 for _ in read_rows(file)) if file.is_file() else 0
    asked = f": {failed} of its questions could not be asked, see {file}" if failed else ""
    return f"{name} has no score in {run}{asked}"


def compare_task(name: str, runs: list[Path], seed: int) -> tuple[list[str], list[str]]:
    """The row of a task in the table, and the ids of the questions whose score changed."""
    from hdvl.evaluation.statistics import paired_test

    first, second = (scores_of(run / name) for run in runs)
    one, other = (
        {key: float(row["score"]) for key, row in rows.items()} for rows in (first, second)
    )
    groups = {key: str(row.get("group", "")) for key, row in first.items()}
    if not one.keys() & other.keys():
        raise ValueError(
            f"the runs must have questions of {name} in common, {runs[0]} has {len(one)} and {runs[1]} "
            f"{len(other)} others; compare runs with the same data and limit"
        )
    found = paired_test(one, other, groups, scale=100, seed=seed)
    interval = f"{found.low:+.2f} to {found.high:+.2f}"
    row = [
        *(name, str(found.questions), f"{found.difference:+.2f}", interval),
        *(str(found.better), str(found.worse), f"{found.p_value:.3g}", found.test),
    ]
    return row, [key for key in one if key in other and one[key] != other[key]]


def cards_of(name: str, changed: list[str], runs: list[Path], data_dir: str | None) -> list[Any]:
    """The changed questions with their images, tiles and boxes and both answers."""
    from hdvl.config import build
    from hdvl.evaluation.earlier import task_config
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.page import card

    node, said = task_config(runs[0], name)
    task = build(node)
    folder = DataFolder(Path(data_dir or said or "."))  # generated questions need none
    samples = {sample.id: sample for sample in task.samples(folder)}
    rows = [scores_of(run / name) for run in runs]
    return [
        card(
            name, samples[key], [(str(run), row[key]) for run, row in zip(runs, rows, strict=True)]
        )
        for key in changed
        if key in samples
    ]


def run(cfg: Mapping[str, Any]) -> None:
    """Print the table, and write the page if ``out`` is given."""
    runs = [Path(str(folder)) for folder in cfg["runs"] or ()]
    if len(runs) != 2:
        raise ValueError(
            f"runs must be two folders, such as hdvl evaluate diff A B, got {len(runs)}"
        )
    rows, changes, unscored = list[list[str]](), dict[str, list[str]](), list[str]()
    for name in tasks_of(runs):
        missing = [said for folder in runs if (said := without_score(name, folder))]
        unscored += missing
        if not missing:
            row, changes[name] = compare_task(name, runs, cfg["seed"])
            rows.append(row)
    if not rows:
        raise ValueError(f"the runs must have a score of the same task: {'; '.join(unscored)}")
    print(table([HEADS, *rows]))
    for said in unscored:
        print(f"left out: {said}")
    if cfg["out"] is None:
        return
    from hdvl.evaluation.page import write_page

    cards = [
        one
        for name, changed in changes.items()
        for one in cards_of(name, changed[: cfg["most"]], runs, cfg["data_dir"])
    ]
    title = f"{runs[0]} and {runs[1]}"
    tables = [{"title": "Paired tests", "heads": HEADS, "rows": rows}]
    shown = f"Questions whose score changed, up to {cfg['most']} of each task"
    page = write_page(Path(cfg["out"]), title, tables=tables, cards=cards, cards_title=shown)
    print(f"written  {page}")


def main() -> None:
    """The command."""
    command("evaluate_diff", run)


if __name__ == "__main__":
    main()
