"""Reader of CMMMU in its four published forms."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hdvl.evaluation.datasets.choices import lettered
from hdvl.evaluation.datasets.vlmevalkit import image_references, present
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.metrics.cmmmu import CATEGORY_FOLDERS
from hdvl.evaluation.row import Row
from hdvl.evaluation.rows import whole_number
from hdvl.evaluation.samples import ImageReference, Sample

CHOICE, JUDGEMENT = "选择", "判断"
IMAGE_TAG = re.compile('<img="(.*?)">')
NO_TAG = re.compile("(?!)")
TABLE = "CMMMU_VAL.tsv"
OPTIONS = ("option1", "option2", "option3", "option4")
UNPLACED = "unplaced"  # field of a row whose texts name several images of a table without names
IMAGE_KEY = re.compile(r"image_?\d+(_filename)?")
INSTRUCTIONS = {
    CHOICE: "请回答以下多项选择题，并选出正确选项。这些题目可能包括单选和多选题型。"
    "如果所提供的信息不足以确定一个明确的答案，"
    "那么请根据可用的数据和你的判断来选择最可能正确的选项。",
    JUDGEMENT: "请回答以下判断题，并根据题目描述和所给的信息来判断问题中陈述的对错。"
    "如果信息不完整或不足以作出绝对判断，"
    "请运用你的逻辑推理和现有信息来做出最可能的判断。",
    "填空": "请回答以下填空题，并根据题目的要求和所提供的信息来给出最恰当的答案。"
    "如果信息不足以确切回答，那么请依据现有的数据和你的推理能力来填写最合理的答案。",
}
"""What lmms-eval puts before a question, by its type."""


def cmmmu(folder: DataFolder, split: str) -> list[Sample]:
    """CMMMU (Zhang et al., 2024).

    Its repository has ``CMMMU/cmmmu-data-{split}/CATEGORY/CATEGORY.jsonl`` with the images beside the file,
    Hugging Face ``CMMMU/SUBJECT/{split}-*.parquet``; ``CMMMU/{split}.jsonl`` with ``CMMMU/images`` is read
    too. The images are in the order in which the question and the options refer to them.

    Without these files, ``CMMMU_VAL.tsv`` of VLMEvalKit, which does not name its images. A single image is
    the one that the texts refer to. Several images are shown before the question, whose texts keep their
    names, as in VLMEvalKit.
    """
    return [_sample(row, folder, places) for row, places in _rows(folder, split)]


def _rows(folder: DataFolder, split: str) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """The rows of all files, each with the folders that its images may be in."""
    root = f"CMMMU/cmmmu-data-{split}"
    names = [f"{root}/{name}/{name}.jsonl" for name in CATEGORY_FOLDERS]
    tables = folder.matching(f"CMMMU/*/{split}-*.parquet")
    if any(folder.has(name) for name in names):
        for name in names:
            for row in folder.rows(name):
                yield row, (name.rpartition("/")[0],)
    elif tables:
        for path in tables:
            for row in folder.rows(path.relative_to(folder.root).as_posix()):
                yield row, ("CMMMU",)
    elif split == "val" and folder.has(TABLE) and not folder.has(f"CMMMU/{split}.jsonl"):
        for row in folder.rows(TABLE):
            yield _of_table(row, folder), ("images",)
    else:
        for row in folder.rows(f"CMMMU/{split}.jsonl", *names, f"CMMMU/SUBJECT/{split}-*.parquet"):
            yield row, ("CMMMU/images", "CMMMU")


def _of_table(row: Row, folder: DataFolder) -> Row:
    """A row of VLMEvalKit's table with the fields of the parquet files."""
    for column in ("index", "question", "type"):
        if column not in row:
            raise ValueError(f"{TABLE} must have the column {column}, got {', '.join(row)}")
    found: dict[str, Any] = {
        column: cell
        for column, cell in row.items()
        if column not in ("image", "image_path") and present(cell)
    }
    found["id"] = whole_number(str(row["index"]))
    images = image_references(row, folder, "images")
    texts = [str(found.get(name, "")) for name in ("question", *OPTIONS)]
    named = list(dict.fromkeys(name for text in texts for name in IMAGE_TAG.findall(text)))
    single = len(images) == len(named) == 1
    found[UNPLACED] = bool(named) and not single
    for number, image in enumerate(images, 1):
        found[f"image_{number}"] = image
        found[f"image_{number}_filename"] = named[0] if single else f"{found['id']}_{number}"
    return Row(found, row.path, row.number)


def _images(row: Mapping[str, Any]) -> dict[str, Any]:
    """The images of a row by the names that its texts use."""
    if "img_list" in row:
        return {str(name): name for name in row["img_list"] or ()}
    keys = [key for key in sorted(row) if IMAGE_KEY.fullmatch(key) and row[key]]
    plain = [key for key in keys if not key.endswith("_filename")]
    return {str(row.get(f"{key}_filename") or row[key]): row[key] for key in plain or keys}


def _sample(row: Row, folder: DataFolder, places: tuple[str, ...]) -> Sample:
    kind = str(row["type"])
    question = str(row["question"])
    options = [str(row[name]) for name in OPTIONS if row.get(name) is not None]
    letters = lettered(options) if kind == CHOICE else {}
    texts = [question, *letters.values()]
    known = _images(row)
    tag = NO_TAG if row.get(UNPLACED) else IMAGE_TAG
    named = [name for text in texts for name in tag.findall(text)]
    references: tuple[ImageReference, ...] = ()
    for name in named or known:
        if name not in known:
            raise ValueError(
                f"question {row['id']} of CMMMU must have the image {name}, it has not"
            )
        references += folder.images(known[name], *places)
    question, *texts = (tag.sub("<image>", text) for text in texts)
    return Sample(
        str(row["id"]),
        question,
        references,
        (str(row["answer"]),) if row.get("answer") else (),
        options=dict(zip(letters, texts, strict=True)),
        categories={
            key: str(row[key]) for key in ("category", "subcategory", "type") if row.get(key)
        },
        extra={
            "kind": kind,
            "instruction": INSTRUCTIONS.get(kind, ""),
            "lmms_eval": _lmms_eval_prompt(row, list(known)),
        },
        group=str(row["id"]),
    )


def _lmms_eval_prompt(row: Mapping[str, Any], names: list[str]) -> str:
    """The prompt of lmms-eval, which numbers the images and shows them before it."""
    options = ""
    if row["type"] == CHOICE:
        lines = (f"({letter}) {row.get(f'option{n}')}\n" for n, letter in enumerate("ABCD", 1))
        options = f"选项：\n{''.join(lines)}\n"
    text = f"{INSTRUCTIONS.get(str(row['type']), '')}\n\n问题：{row['question']}\n{options}正确答案：\n"
    for number, name in enumerate(names, 1):
        text = text.replace(f'<img="{name}">', f"<图片 {number}>")
    return text
