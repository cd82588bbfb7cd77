"""``hdvl score``: scores a file of predictions of any model. Neither a model nor torch is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.command import command
from hdvl.config import build
from hdvl.files import write_text
from hdvl.tables import table


def run(cfg: Mapping[str, Any]) -> None:
    """Print the scores and the problems of the file."""
    if len(cfg.get("task") or ()) != 1:
        raise ValueError("task must be one benchmark, such as task=docvqa")
    for key in ("predictions", "data_dir"):
        if cfg[key] is None:
            raise ValueError(f"{key} must be given")
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.judging.judge import judge_of
    from hdvl.evaluation.judging.judging import judge_answers
    from hdvl.evaluation.predictions import joined, read_predictions
    from hdvl.evaluation.summary import task_summary
    from hdvl.evaluation.task import first_questions, protocol_hash

    ((name, node),) = cfg["task"].items()
    task, folder = build(node), DataFolder(Path(cfg["data_dir"]))
    if task.hidden:
        raise ValueError(f"the answers of split {task.split} of {name} are not published")
    samples = first_questions(task.samples(folder), cfg["limit"])
    found = joined(
        task, samples, read_predictions(Path(cfg["predictions"])), partial=cfg["partial"]
    )
    kept = [sample for sample in samples if sample.id in found.answers]
    verdicts = None
    if task.chosen.judge is not None:
        with judge_of(cfg) as judge:
            verdicts = judge_answers(task.chosen.judge, judge, kept, found.answers, folder)
    scores = task.score(kept, found.answers, verdicts)
    summary = task_summary(kept, {}, scores)
    protocol = protocol_hash(node, task.protocol)
    print(f"{name}  {task.split}, protocol {task.protocol} {protocol}, {len(kept)} questions")
    print(table([[key, f"{value:.4f}"] for key, value in scores.values.items()], right=[1]))
    for line in (*scores.notes, *found.problems.lines()):
        print(line)
    if verdicts is not None:
        said_by = verdicts.summary()
        print(f"judge {said_by['judge']}, words {said_by['wording']}, {said_by['replies']} replies")
    if scores.unparsed:
        print(f"unparsed: {len(scores.unparsed)}")
    if cfg["out"] is not None:
        problems = {kind: list(ids) for kind, ids in vars(found.problems).items()}
        report = {
            "task": name,
            "protocol": task.protocol,
            "protocol_hash": protocol,
            **summary,
            **({"judge": verdicts.summary()} if verdicts else {}),
            "correct": scores.correct,
            "problems": problems,
            "data": folder.checksums(),
        }
        write_text(cfg["out"], json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Run the command."""
    command("score", run)


if __name__ == "__main__":
    main()
