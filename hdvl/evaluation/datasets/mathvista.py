"""Reader of MathVista in its two published forms."""

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hdvl.evaluation.datasets.choices import lettered
from hdvl.evaluation.datasets.vlmevalkit import present, table_samples
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.samples import Sample

METADATA = ("task", "context", "category", "grade", "source", "language")
COLUMNS = (
    *("question_type", "answer_type", "choices", "answer_option", "precision", "answer", "skills"),
    *METADATA,
)
DECIMALS = re.compile(r"floating-point number with (one|two) decimal places?")


def mathvista(folder: DataFolder, split: str) -> list[Sample]:
    """MathVista (Lu et al., 2024): ``mathvista/{split}.json``, a mapping from id to problem.

    Without ``testmini.json``, the table ``MathVista_MINI.tsv`` of VLMEvalKit.
    """
    official = f"mathvista/{split}.json"
    if split == "testmini" and folder.has("MathVista_MINI.tsv") and not folder.has(official):
        return _mathvista_table(folder)
    samples = []
    for name, row in folder.entries(official):
        metadata: Mapping[str, Any] = row.mapping("metadata") if row.get("metadata") else {}
        kinds = {key: str(metadata[key]) for key in ("task", "context") if key in metadata}
        image = str(row["image"])
        samples.append(
            Sample(
                str(name),
                str(row["query"] if "query" in row else row["question"]),
                folder.images(image, "mathvista", "mathvista/images"),
                (str(row["answer"]),) if row.get("answer") not in (None, "") else (),
                categories={**kinds, "question_type": str(row["question_type"])},
                extra={"problem": {**row, "answer_type": row["answer_type"]}},
                group=image,
            )
        )
    return samples


def _mathvista_table(folder: DataFolder) -> list[Sample]:
    """The table of VLMEvalKit. The answer of a choice is the text that ``answer_option`` names."""
    rows = table_samples(folder.rows("MathVista_MINI.tsv"), folder, kinds={}, extra=COLUMNS)
    samples = []
    for one in rows:
        problem = _mathvista_problem(one)
        metadata = problem["metadata"]
        kinds = {key: metadata[key] for key in ("task", "context") if key in metadata}
        samples.append(
            replace(
                one,
                answers=(problem["answer"],),
                options={},
                categories={**kinds, "question_type": problem["question_type"]},
                extra={"problem": problem},
            )
        )
    return samples


def _mathvista_problem(one: Sample) -> dict[str, Any]:
    """The fields of a problem as the official file has them."""
    row = one.extra
    for column in ("question_type", "answer_type", "answer"):
        if not present(row.get(column)):
            raise ValueError(
                f"question {one.id} of MathVista_MINI.tsv must have a value in the column {column}, it "
                "has none; download the table again"
            )
    listed = ast.literal_eval(str(row["choices"])) if present(row.get("choices")) else None
    choices = [str(choice) for choice in listed or ()]
    answer, letter = str(row["answer"]), str(row.get("answer_option", ""))
    if row["question_type"] == "multi_choice":
        answer = lettered(choices).get(letter, answer)
        if answer not in choices:
            raise ValueError(
                f"the answer to question {one.id} of MathVista_MINI.tsv must be one of its choices "
                f"{choices}, got {answer!r}; download the table again"
            )
    metadata: dict[str, Any] = {key: str(row[key]) for key in METADATA if present(row.get(key))}
    if present(row.get("skills")):
        skills = str(row["skills"])
        metadata["skills"] = ast.literal_eval(skills) if skills.startswith("[") else [skills]
    return {
        **{"question": one.question, "query": one.question, "answer": answer},
        **{"question_type": str(row["question_type"]), "answer_type": str(row["answer_type"])},
        **{"choices": choices or None, "precision": _precision(one), "metadata": metadata},
    }


def _precision(one: Sample) -> float | None:
    """Decimal places of an answer that is a number: of the column ``precision``, or of the hint."""
    if present(one.extra.get("precision")) and one.extra["precision"] != "None":
        return float(one.extra["precision"])
    if one.extra["question_type"] == "multi_choice" or one.extra["answer_type"] != "float":
        return None
    found = DECIMALS.search(one.question)
    if not found:
        raise ValueError(
            f"question {one.id} of MathVista_MINI.tsv must say how many decimal places its answer has, in "
            "the column precision or in its hint; use mathvista/testmini.json"
        )
    return 1.0 if found[1] == "one" else 2.0
