"""The files of a task: its answers in order with their scores, its failures, its score, its submission."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.judging.judge import judge_of
from hdvl.evaluation.judging.judging import judge_answers
from hdvl.evaluation.runner import Answers
from hdvl.evaluation.samples import Sample, image_name
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.summary import task_summary
from hdvl.evaluation.task import Task, protocol_hash
from hdvl.files import write_text

RESULTS, FAILED, SUMMARY, JUDGE = (
    *("results.jsonl", "failed.jsonl", "summary.json"),
    "judge.jsonl",
)


def finish_task(
    task: Task,
    samples: Sequence[Sample],
    answers: Answers,
    folder: DataFolder,
    place: Path,
    cfg: Mapping[str, Any],
) -> dict[str, Any]:
    """Score a task whose questions were asked, write its files to ``place`` and return its summary.

    A task with a question that could not be asked has no score: an answer that does not exist is neither
    right nor wrong. The answers of hidden splits are written for the server of the benchmark instead.
    """
    texts = {name: task.chosen.answer(row) for name, row in answers.rows.items()}
    scored = not answers.failed and not task.hidden
    verdicts = None
    if scored and task.chosen.judge is not None:
        with judge_of(cfg, place / JUDGE) as judge:
            verdicts = judge_answers(task.chosen.judge, judge, samples, texts, folder)
    scores = task.score(samples, texts, verdicts) if scored else None
    summary = {
        "protocol": task.protocol,
        "protocol_hash": protocol_hash(cfg["task"][task.name], task.protocol),
        "protocol_settings": cfg["task"][task.name]["protocols"][task.protocol],
        "split": task.split,
        "limit": cfg["limit"],
        **task_summary(samples, answers.rows, scores),
        **({"judge": verdicts.summary()} if verdicts else {}),
        "failed": list(answers.failed),
        "published": dict(task.published),
        **({"generator": cfg["task"][task.name]["read"]} if task.generated else {}),
        "data": folder.checksums() if cfg["checksums"] else {},
    }
    write_lines(place / RESULTS, result_rows(samples, answers.rows, scores))
    write_lines(
        place / FAILED, ({"id": name, "error": said} for name, said in answers.failed.items())
    )
    write_text(place / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    if task.submission is not None and not answers.failed:
        summary["submission"] = task.submission(place, samples, texts).name
    return summary


def result_rows(
    samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]], scores: Scores | None
) -> Iterable[dict[str, Any]]:
    """A row for each answered question: the question, its answer, its score and its cost."""
    unparsed = set(scores.unparsed) if scores else set()
    for sample in samples:
        if sample.id not in rows:
            continue
        stored = {key: value for key, value in rows[sample.id].items() if key != "key"}
        row = {
            **stored,
            "id": sample.id,
            "question": sample.question,
            "answers": list(sample.answers),
            "pictures": [image_name(image) for image in sample.images],
            "group": sample.group,
            "categories": dict(sample.categories),
        }
        if scores is not None:
            row["score"] = scores.correct.get(sample.id)
            row["unparsed"] = sample.id in unparsed
            if sample.id in scores.parsed:
                row["parsed"] = scores.parsed[sample.id]
        yield row


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines to a temporary name and rename it; an interruption keeps the old file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
