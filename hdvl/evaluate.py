"""``hdvl evaluate``: answer the questions of benchmarks and score the answers."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.chosen_model import is_composition, pipeline_of
from hdvl.command import command
from hdvl.composition import changes_of, keys_of
from hdvl.config import given_words
from hdvl.inputs import check_written_folder

if TYPE_CHECKING:
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.runner import Ranks
    from hdvl.evaluation.samples import Sample
    from hdvl.evaluation.task import Task
    from hdvl.inference import Pipeline


def model_identity(cfg: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What the answers depend on besides the questions, as plain data: weights, changed parts, the type."""
    from hdvl.checkpoints.sources import find_folder
    from hdvl.evaluation.identity import folder_identity

    keys = keys_of(overrides)
    said = {key: cfg[key] for key in ("dtype", "max_length", "system")}
    if is_composition(cfg, keys):
        return {**said, "checkpoint": None, "model": cfg["model"], "seed": cfg["seed"]}
    folder = find_folder(cfg["checkpoint"])
    return {
        **said,
        "checkpoint": str(cfg["checkpoint"]),
        "changes": changes_of(cfg, keys),
        "files": folder_identity(folder),
    }


def check(cfg: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if no task or no folder of data is given, or no folder can be written."""
    if not cfg.get("task"):
        raise ValueError("task must be given, such as task=[docvqa,chartqa]")
    files = [name for name, node in cfg["task"].items() if not node.get("generated")]
    if cfg["data_dir"] is None and files:
        raise ValueError("data_dir must be given: the folder with the files of the benchmarks")
    if cfg["data_dir"] is not None and not Path(cfg["data_dir"]).is_dir():
        raise ValueError(f"data_dir must be an existing folder, got {cfg['data_dir']}")
    check_written_folder("outputs", Path(cfg["outputs"]))


def run_task(
    task: "Task",
    samples: "Sequence[Sample]",
    folder: "DataFolder",
    cfg: Mapping[str, Any],
    pipe: "Pipeline",
    identity: str,
    ranks: "Ranks",
) -> dict[str, Any]:
    """Answer one task, score it on the first rank, write its files, and return its part of the report."""
    from hdvl.evaluation.results import finish_task
    from hdvl.evaluation.runner import answer_samples
    from hdvl.evaluation.store import AnswerStore

    place = Path(cfg["outputs"]) / task.name
    with AnswerStore(place, ranks.rank) as store:
        answers = answer_samples(
            pipe,
            samples,
            task.chosen,
            store,
            identity=identity,
            ranks=ranks,
            system=cfg["system"],
            num_workers=cfg["num_workers"],
        )
    if ranks.rank:
        return {"failed": list(answers.failed)}
    return finish_task(task, samples, answers, folder, place, cfg)


def curves_of(outputs: Path, samples: "Mapping[str, Sequence[Sample]]") -> list[Path]:
    """Draw the curves of the tasks in ``samples``, which maps them to their questions; returns the files."""
    from hdvl.evaluation.curves import points, write_curves
    from hdvl.evaluation.report import read_results

    found = [
        point
        for name, asked in samples.items()
        for point in points(name, asked, read_results(outputs / name))
    ]
    return write_curves(outputs, found) if found else []


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Answer, score and report every task.

    Raises:
        ValueError: some questions could not be asked; the others are stored.
    """
    check(cfg)
    from hdvl.config import build
    from hdvl.evaluation.earlier import earlier_tasks
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.judging.judge import judge_of
    from hdvl.evaluation.report import write_failures, write_reports
    from hdvl.evaluation.runner import Ranks
    from hdvl.evaluation.summary import HEADS, remarks, score_line
    from hdvl.evaluation.task import first_questions
    from hdvl.tables import table

    tasks: list[Task] = [build(node) for node in cfg["task"].values()]
    for task in tasks:
        if task.chosen.judge is not None and not task.hidden:
            judge_of(cfg, Path(cfg["outputs"]))  # raises before the run if no judge is configured
    folders = {task.name: DataFolder(Path(cfg["data_dir"] or ".")) for task in tasks}
    samples = {  # raises for missing files before the model is loaded
        task.name: list(first_questions(task, task.samples(folders[task.name]), cfg["limit"]))
        for task in tasks
    }
    model = model_identity(cfg, overrides)
    identity = json.dumps(model, sort_keys=True, default=str)
    earlier = earlier_tasks(Path(cfg["outputs"]), samples, model)
    ranks = Ranks.of_environment()
    ranks.connect()
    started = time.monotonic()
    pipe = pipeline_of(cfg, overrides)
    seconds = {"loading the model": time.monotonic() - started}
    summaries: dict[str, dict[str, Any]] = {}
    for task in tasks:
        print(f"{task.name}  {task.split}, protocol {task.protocol}", file=sys.stderr)
        begun = time.monotonic()
        summaries[task.name] = run_task(
            task, samples[task.name], folders[task.name], cfg, pipe, identity, ranks
        )
        seconds[task.name] = time.monotonic() - begun
        if not ranks.rank:
            line = score_line(task.name, summaries[task.name])
            print("\n".join([table([HEADS, line]), *remarks(summaries[task.name])]), flush=True)
    failed = {name: one["failed"] for name, one in summaries.items() if one["failed"]}
    if not ranks.rank:
        reported = {**earlier, **summaries}
        written = write_reports(Path(cfg["outputs"]), reported, model, cfg)
        write_failures(Path(cfg["outputs"]), reported, samples, cfg["failures"], seconds)
        drawn = [task.name for task in tasks if task.curves and not summaries[task.name]["failed"]]
        for path in curves_of(Path(cfg["outputs"]), {name: samples[name] for name in drawn}):
            print(f"written  {path}")
        print(f"written  {written}  in {time.monotonic() - started:.1f} s")
    if failed:
        counts = ", ".join(f"{len(ids)} of {name}" for name, ids in failed.items())
        raise ValueError(
            f"{counts} could not be asked, and these tasks have no score; see failed.jsonl in their "
            "folders, fix the causes named there and run the same command again, which asks only these"
        )


def main() -> None:
    """The command."""
    command("evaluate", lambda cfg: run(cfg, given_words()), checkpoint="checkpoint")


if __name__ == "__main__":
    main()
