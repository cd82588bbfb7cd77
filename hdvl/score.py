"""``hdvl score``: scores a file of predictions of any model. Neither a model nor torch is loaded."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.config import build
from hdvl.files import atomic_write
from hdvl.tables import table

if TYPE_CHECKING:
    from hdvl.evaluation.answer_table import AnswerTable
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.samples import Sample
    from hdvl.evaluation.scores import Scores
    from hdvl.evaluation.streamed import StreamedMean
    from hdvl.evaluation.task import Task

Summary = dict[str, Any]


def check(cfg: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if the command lacks a task, a file or a folder."""
    if len(cfg.get("task") or ()) != 1:
        raise ValueError("task must be one benchmark, such as task=docvqa")
    (node,) = cfg["task"].values()
    for key in ("predictions",) if node.get("generated") else ("predictions", "data_dir"):
        if cfg[key] is None:
            raise ValueError(f"{key} must be given")
    out = cfg["out"] and Path(cfg["out"])
    if out and out.exists() and out.samefile(cfg["predictions"]):
        raise ValueError(f"out={out} would overwrite the predictions; give another file")


def score_streamed(
    read: "Callable[[], Iterator[Sample]]",
    answers: "AnswerTable",
    scorer: "StreamedMean",
    cfg: Mapping[str, Any],
) -> "tuple[Scores, Summary]":
    """Score one answer after the other."""
    from hdvl.evaluation.streamed import score_stream
    from hdvl.evaluation.summary import costs, scores_fields, without_nan

    score_stream(read, answers, scorer)
    answers.finish(partial=cfg["partial"])
    refuse_no_answer(answers)
    scores, totals = scorer.scores(), scorer.totals
    around = asdict(totals.uncertainty())
    fields = {"questions": len(totals.values), "cost": costs([]), **scores_fields(scores)}
    summary: Summary = without_nan({**fields, "uncertainty": around})
    return scores, summary


def score_whole(
    task: "Task",
    questions: "Iterator[Sample]",
    answers: "AnswerTable",
    folder: "DataFolder",
    cfg: Mapping[str, Any],
    each: IO[str],
) -> "tuple[Scores, Summary]":
    """Score with all questions in memory, and ask a judge if the protocol has one."""
    from hdvl.evaluation.judging.judge import judge_of
    from hdvl.evaluation.judging.judging import judge_answers
    from hdvl.evaluation.summary import task_summary

    samples = list(questions)
    pairs = answers.take([one.id for one in samples])
    given = {samples[place].id: answer for place, answer in pairs}
    answers.finish(partial=cfg["partial"])
    kept = [one for one in samples if one.id in given]
    refuse_no_answer(answers)
    verdicts = None
    if task.chosen.judge is not None:
        with judge_of(cfg) as judge:
            verdicts = judge_answers(task.chosen.judge, judge, kept, given, folder)
    scores = task.score(kept, given, verdicts)
    summary = task_summary(kept, {}, scores)
    if verdicts is not None:
        summary["judge"] = verdicts.summary()
    for name, value in scores.correct.items():
        each.write(f",\n    {json.dumps(name)}: {value!r}")
    return scores, summary


def refuse_no_answer(answers: "AnswerTable") -> None:
    """Raise ``ValueError`` if no question has an answer."""
    if not answers.answered:
        said = "; ".join(answers.problems.lines(answers.counts))
        empty = answers.counts["not_text"] and not answers.counts["unknown"]
        what = "the answers are null or empty cells, write texts" if empty else "compare the ids"
        raise ValueError(
            f"predictions must answer at least one question, got {said}; {what}"
            + ("" if empty else " with those of the questions")
        )


def write_report(path: str | Path, report: Summary, each: IO[str]) -> None:
    """Write ``report`` with the value of each question, the items of a JSON mapping, as ``correct``."""
    head = json.dumps(report, indent=2, ensure_ascii=False)
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(f'{head[:-2]},\n  "correct": {{')
        each.seek(0)
        each.read(1)  # the comma before the first item
        shutil.copyfileobj(each, file)
        file.write("\n  }\n}\n")


def run(cfg: Mapping[str, Any]) -> None:
    """Print the scores and the problems of the file."""
    check(cfg)
    from hdvl.evaluation.answer_table import AnswerTable
    from hdvl.evaluation.folder import DataFolder
    from hdvl.evaluation.predictions import read_predictions, rules_of
    from hdvl.evaluation.streamed import streamed
    from hdvl.evaluation.task import every_id, first_questions, protocol_hash

    ((name, node),) = cfg["task"].items()
    task, folder = build(node), DataFolder(Path(cfg["data_dir"] or "."), look=False)
    if task.hidden:
        raise ValueError(f"the answers of split {task.split} of {name} are not published")
    row_id = task.identify(task.stream(folder)) if task.identify is not None else None
    predictions = read_predictions(Path(cfg["predictions"]), row_id, folders=task.folders)
    with ExitStack() as stack:
        each = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))
        table = AnswerTable(rules_of(task), predictions, lambda: every_id(task, folder))
        answers = stack.enter_context(table)
        scorer = streamed(task.chosen.score, each)
        if scorer is not None:
            scores, summary = score_streamed(
                lambda: first_questions(task, task.stream(folder), cfg["limit"]),
                answers,
                scorer,
                cfg,
            )
        else:
            questions = first_questions(task, task.samples(folder), cfg["limit"])
            scores, summary = score_whole(task, questions, answers, folder, cfg, each)
        said = protocol_hash(node, task.protocol)
        print(f"{name}  {task.split}, protocol {task.protocol} {said}", end=", ")
        print(f"{summary['questions']} questions")
        show(scores, summary)
        for line in answers.problems.lines(answers.counts):
            print(line)
        if cfg["out"] is not None:
            report = {
                "task": name,
                "protocol": task.protocol,
                "protocol_hash": said,
                **summary,
                "problems": {kind: list(ids) for kind, ids in vars(answers.problems).items()},
                "problem_counts": answers.counts,
                "data": folder.checksums(),
            }
            write_report(cfg["out"], report, each)
            print(f"written  {cfg['out']}")


def show(scores: "Scores", summary: Summary) -> None:
    """Print the scores with the error of the first, and what a reader must know of them."""
    from hdvl.evaluation.summary import remarks

    rows = [[key, f"{value:.4f}"] for key, value in scores.values.items()]
    around = summary.get("uncertainty") or {"standard_error": None, "low": None}
    if around["standard_error"] is not None:
        rows[0][1] += f" ± {around['standard_error']:.4f}"
    if around["low"] is not None:
        rows[0][1] += f"  ({around['low']:.4f} to {around['high']:.4f})"
    print(table(rows))
    for line in remarks(summary):
        print(line)


def main() -> None:
    """Run the command."""
    command("score", run)


if __name__ == "__main__":
    main()
