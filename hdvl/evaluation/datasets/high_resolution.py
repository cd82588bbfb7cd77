"""Readers of V*Bench."""

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from hdvl.evaluation.datasets.choices import lettered
from hdvl.evaluation.datasets.vlmevalkit import letters, table_samples
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.row import Row
from hdvl.evaluation.samples import Sample

FOLDERS = ("direct_attributes", "relative_position")
LMMS_OPTION = re.compile(r"\([A-D]\)\s*([^()]+?)(?=\s*\([A-D]\)|$)")


def vstar_bench(folder: DataFolder, split: str) -> list[Sample]:
    """V*Bench (Wu and Xie, 2024): ``VStarBench.tsv``, ``test_questions.jsonl``, or the two folders.

    The files of the folders name the right option first. Here the order of the options follows from
    the name of the file, so that the letter of the right one differs. The likelihood of an option does not
    depend on it.
    """
    if folder.has("VStarBench.tsv"):
        rows = folder.rows("VStarBench.tsv")
        samples = table_samples(rows, folder, allowed=letters)
        return [_with_lmms_eval(one, _listed(one.question, one.options)) for one in samples]
    if folder.has("vstar_bench/test_questions.jsonl"):
        return [_question(row, folder) for row in folder.rows("vstar_bench/test_questions.jsonl")]
    files = [path for name in FOLDERS for path in folder.matching(f"vstar_bench/{name}/*.json")]
    if not files:
        folder.path("VStarBench.tsv", "vstar_bench/test_questions.jsonl", "vstar_bench/PART/*.json")
    return [_annotation(path, folder) for path in files]


def _question(row: Row, folder: DataFolder) -> Sample:
    text, *options = re.split(r"\n?\(([A-Z])\)\s*", str(row["text"]))
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    answer = row.choice("label", pairs)
    shown = LMMS_OPTION.findall(str(row["text"]))
    sample = Sample(
        str(row["question_id"]),
        text.strip(),
        folder.images(str(row["image"]), "vstar_bench"),
        (answer,),
        options={letter: one.split("\n")[0].strip() for letter, one in pairs.items()},
        categories={"category": str(row["category"])},
        group=str(row["image"]),
    )
    return _with_lmms_eval(sample, _listed(text.strip(), lettered([one.strip() for one in shown])))


def _annotation(path: Path, folder: DataFolder) -> Sample:
    part, name = path.parent.name, path.stem
    row = folder.document(path.relative_to(folder.root).as_posix())
    found = sorted(folder.root.glob(f"vstar_bench/{part}/{name}.*"))
    image = next((path.name for path in found if path.suffix != ".json"), f"{name}.jpg")
    right, *wrong = (str(option) for option in row.listed("options"))
    place = sha256(f"{part}/{name}".encode()).digest()[0] % (len(wrong) + 1)
    options = lettered([*wrong[:place], right, *wrong[place:]])
    sample = Sample(
        f"{part}/{name}",
        str(row["question"]),
        folder.images(image, f"vstar_bench/{part}"),
        (list(options)[place],),
        options=options,
        categories={"category": part},
        group=f"{part}/{name}",
    )
    return _with_lmms_eval(sample, _listed(sample.question, options))


def _listed(question: str, options: Mapping[str, str]) -> str:
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])


def _with_lmms_eval(sample: Sample, text: str) -> Sample:
    """The question with the text that lmms-eval makes of it."""
    return replace(sample, extra={"lmms_eval": text})
