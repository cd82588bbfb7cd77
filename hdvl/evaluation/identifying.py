"""Ids of questions in files of predictions that do not identify questions by their ids.

Each function takes the questions of a task and returns a function from the number of a row and the row to the
id of its question, or to ``None`` where the row has the id in a field of its own.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from hdvl.evaluation.rows import whole_number
from hdvl.evaluation.samples import Sample, image_name

Row = Mapping[str, Any]
RowId = Callable[[int, Row], str | None]
Identify = Callable[[Iterable[Sample]], RowId]


def llava_textvqa(samples: Iterable[Sample]) -> RowId:
    """TextVQA as LLaVA writes it: ``question_id`` is the image, and ``prompt`` begins with the question."""
    known, ids = dict[tuple[str, str], str](), set[str]()
    for (
        one
    ) in samples:  # of two equal questions about an image the last is meant, as by LLaVA's script
        known[str(one.extra.get("image_id")), one.question.lower()] = one.id
        ids.add(one.id)

    def found(number: int, row: Row) -> str | None:
        name = str(row.get("question_id"))
        if "prompt" not in row or "question_id" not in row or name in ids:
            return None
        asked = asked_question(str(row["prompt"])).lower()
        return known.get((name, asked), f"{name} {asked}")

    return found


def asked_question(prompt: str) -> str:
    """The question in a prompt of LLaVA for TextVQA, which may have reference tokens before or after it."""
    tokens = re.match(r"OCR tokens: .*?Question: (.*?) Short answer:", prompt, re.DOTALL)
    if tokens:
        return tokens[1]
    lines = prompt.split("\n")
    return lines[1] if len(lines) == 3 and lines[0].startswith("Reference OCR token:") else lines[0]


def pope_splits(samples: Iterable[Sample]) -> RowId:
    """POPE: bare ids with a ``category``, or of one split; rows without ids are in the order of one split.

    Raises:
        ValueError: rows do not say which of several splits they are of.
    """
    ids, splits, bare_ids = list[str](), set[str](), True
    for one in samples:
        ids.append(one.id)
        splits.add(one.categories.get("split", ""))
        bare_ids &= not one.id.startswith(f"{one.categories.get('split')}_")

    def found(number: int, row: Row) -> str | None:
        if bare_ids:  # those of a table of VLMEvalKit are the ids
            return None
        cell = row.get("question_id", row.get("index"))
        bare = None if cell is None else whole_number(str(cell))
        if bare is not None and bare.partition("_")[0] in splits:
            return bare
        split = str(row.get("category", next(iter(splits)) if len(splits) == 1 else ""))
        if split not in splits:
            raise ValueError(
                f"row {number + 1} of the predictions must have a category of {', '.join(sorted(splits))}, "
                f"got {split!r}; the ids are the same in every split, so name the one that was answered, "
                f"such as task.pope.split={min(splits)}"
            )
        if bare is not None:
            return f"{split}_{bare}"
        if len(splits) > 1:
            raise ValueError(f"row {number + 1} of the predictions must have a question_id")
        return ids[number] if number < len(ids) else f"row {number + 1}"

    return found


def mme_lines(samples: Iterable[Sample]) -> RowId:
    """MME: the task, the image and the question of a line of an official text file."""
    known = {
        (
            one.categories["task"],
            PurePosixPath(image_name(one.images[0])).stem,
            one.question,
        ): one.id
        for one in samples
    }

    def found(number: int, row: Row) -> str | None:
        if any(key not in row for key in ("task", "image", "question")):
            return None
        stem, asked = PurePosixPath(str(row["image"])).stem, str(row["question"]).strip()
        name = (str(row["task"]), stem, asked)
        return known.get(name, "/".join(name))

    return found


HALLUSION_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")


def hallusion_rows(samples: Iterable[Sample]) -> RowId:
    """HallusionBench: the fields of a row of its question file, to which the answers are added."""

    def found(number: int, row: Row) -> str | None:
        if any(key not in row for key in HALLUSION_KEYS):
            return None
        return "_".join(whole_number(str(row[key])) for key in HALLUSION_KEYS)

    return found


def table_order(samples: Iterable[Sample]) -> RowId:
    """TouchStone: rows without an index are in the order of the questions."""
    ids = [one.id for one in samples]

    def found(number: int, row: Row) -> str | None:
        if row.get("index") not in (None, ""):
            return str(row["index"])
        return ids[number] if number < len(ids) else f"row {number + 1}"

    return found
