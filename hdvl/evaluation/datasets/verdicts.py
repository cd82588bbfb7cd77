"""Readers of yes-or-no questions, OCRBench, captions and boxes."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from hdvl.evaluation.datasets.vlmevalkit import table_samples, yes_or_no
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.metrics.mme import COGNITION, PERCEPTION
from hdvl.evaluation.row import Row
from hdvl.evaluation.samples import ImageReference, Sample, image_bytes

POPE_SPLITS = ("random", "popular", "adversarial")
YES_OR_NO = ("yes", "no")
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
LMMS_LAB = {"refcoco": "RefCOCO", "refcoco+": "RefCOCOplus", "refcocog": "RefCOCOg"}
"""The repositories of lmms-lab on Hugging Face, by the names of Qwen-VL's files."""
COCO_IMAGE = re.compile(r"COCO_[a-z]+\d+_\d+")  # what follows in a name is the number of an object


def bare_question(question: str) -> str:
    """A question of MME without its instruction, which LLaVA and lmms-eval replace by their own."""
    return question.replace(" Please answer yes or no.", "")


def mme(folder: DataFolder, split: str) -> list[Sample]:
    """MME (Fu et al., 2023): ``MME/{task}`` with an image and a text of two lines for each image.

    A line is the question, a tab and the answer. Images and texts may be in the folders ``images`` and
    ``questions_answers_YN`` of the task.
    """
    if folder.has("MME.tsv"):
        table, kinds = folder.rows("MME.tsv"), {"category": "task"}
        rows = table_samples(table, folder, allowed=yes_or_no, kinds=kinds)
        return [replace(one, extra={"bare": bare_question(one.question)}) for one in rows]
    samples = []
    for task in (*PERCEPTION, *COGNITION):
        texts = folder.matching(f"MME/{task}/*.txt") or folder.matching(
            f"MME/{task}/questions_answers_YN/*.txt"
        )
        for path in texts:
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            names = [f"{path.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
            places = (f"MME/{task}", f"MME/{task}/images")
            known = [f"{place}/{name}" for place in places for name in names]
            name = next((name for name in known if folder.has(name)), known[0])
            for number, line in enumerate(lines):
                question, tab, answer = line.partition("\t")
                if not tab:
                    raise ValueError(
                        f"line {number + 1} of {path} must have a tab before its answer"
                    )
                if answer.strip() not in ("Yes", "No"):
                    raise ValueError(
                        f"line {number + 1} of {path} must have the answer Yes or No after its tab, got "
                        f"{answer.strip()!r:.80}; restore the file"
                    )
                samples.append(
                    Sample(
                        f"{task}/{path.stem}/{number}",
                        question.strip(),
                        folder.images(name, ""),
                        (answer.strip(),),
                        categories={"task": task},
                        extra={"bare": bare_question(question.strip())},
                        group=f"{task}/{path.stem}",
                    )
                )
    if not samples:
        raise FileNotFoundError(
            f"there is no file {folder.root / 'MME'}/TASK/*.txt; download it, or change data_dir"
        )
    return samples


def pope(folder: DataFolder, split: str) -> list[Sample]:
    """POPE (Li et al., 2023): the three files ``pope/coco_pope_{split}.json`` of JSON lines."""
    if folder.has("POPE.tsv"):
        table, kinds = folder.rows("POPE.tsv"), {"category": "split"}
        return table_samples(table, folder, allowed=yes_or_no, kinds=kinds)
    samples = []
    for name in POPE_SPLITS if split == "all" else (split,):
        for row in folder.lines(f"pope/coco_pope_{name}.json", f"pope/coco_pope_{name}.jsonl"):
            image = str(row["image"])
            samples.append(
                Sample(
                    f"{name}_{row['question_id']}",
                    str(row["text"]),
                    folder.images(image, "coco/val2014", "val2014"),
                    (row.choice("label", YES_OR_NO),),
                    categories={"split": name},
                    group=image,
                )
            )
    return samples


def hallusionbench(folder: DataFolder, split: str) -> list[Sample]:
    """HallusionBench (Guan et al., 2024): all questions of ``HallusionBench.json``, some without a figure.

    Without that file, ``HallusionBench.tsv`` of VLMEvalKit, which has those with a figure. Its index names
    set, figure and question after three other words.
    """
    official = "hallusion_bench/HallusionBench.json"
    if folder.has("HallusionBench.tsv") and not folder.has(official):
        kinds = {"category": "category", "l2-category": "subcategory"}
        table = folder.rows("HallusionBench.tsv")
        rows = table_samples(table, folder, allowed=yes_or_no, kinds=kinds)
        return [replace(one, extra=_named_by_index(one)) for one in rows]
    samples = []
    for row in folder.rows(official):
        keys = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
        images: tuple[ImageReference, ...] = ()
        image = str(row["filename"]) if str(row["visual_input"]) != "0" else ""
        if image:
            images = folder.images(image, "hallusion_bench", "hallusion_bench/hallusion_bench")
        samples.append(
            Sample(
                "_".join(str(row[key]) for key in keys[:-1]),
                str(row["question"]),
                images,
                ("Yes" if row.choice("gt_answer", ("0", "1")) == "1" else "No",),
                categories={key: str(row[key]) for key in ("category", "subcategory")},
                extra={
                    **{key: str(row[key]) for key in keys},
                    "gt_answer_details": str(row.get("gt_answer_details", "")),
                },
                group=image or "_".join(str(row[key]) for key in keys[:3]),
            )
        )
    return samples


def _named_by_index(sample: Sample) -> dict[str, str]:
    """The keys of a question of HallusionBench in a table of VLMEvalKit."""
    parts = sample.id.split("_")
    if len(parts) < 6:
        raise ValueError(
            f"an index of HallusionBench must have six words joined by _, got {sample.id!r}; restore "
            "the table"
        )
    keys = dict(zip(("set_id", "figure_id", "question_id"), parts[3:6], strict=True))
    kinds = {key: sample.categories.get(key, "") for key in ("category", "subcategory")}
    return {**kinds, **keys, "visual_input": "1", "gt_answer_details": ""}


def ocrbench(folder: DataFolder, split: str) -> list[Sample]:
    """OCRBench (Liu et al., 2024): ``OCRBench/OCRBench.json``, or ``OCRBench.tsv``."""
    if folder.has("OCRBench.tsv"):
        from hdvl.evaluation.datasets.vlmevalkit import answer_list

        rows = folder.rows("OCRBench.tsv")
        return table_samples(rows, folder, answers=answer_list, kinds={"category": "type"})
    samples = []
    for number, row in enumerate(folder.rows("OCRBench/OCRBench.json")):
        given = row["answers"] if "answers" in row else row["answer"]
        answers = given if isinstance(given, list) else [given]
        image = str(row["image_path"])
        samples.append(
            Sample(
                str(row.get("id", number)),
                str(row["question"]),
                folder.images(image, "OCRBench", "OCRBench/OCRBench_Images"),
                tuple(map(str, answers)),
                categories={"type": str(row["type"]), "dataset": str(row["dataset_name"])},
                group=image,
            )
        )
    return samples


def captions(folder: DataFolder, split: str, *, file: str, images: str) -> list[Sample]:
    """Captions in the form of COCO: ``images`` and ``annotations``; NoCaps names the domain of each image.

    Args:
        folder: where the file is.
        split: fills ``{split}`` in the names.
        file: the annotation file.
        images: the folder of the images.
    """
    document = folder.document(file.format(split=split))
    found: dict[str, list[str]] = {}
    for note in document.parts("annotations") if "annotations" in document else ():
        found.setdefault(str(note["image_id"]), []).append(str(note["caption"]))
    samples = []
    for image in document.parts("images"):
        name = str(image["id"])
        samples.append(
            Sample(
                name,
                "",
                folder.images(str(image["file_name"]), images.format(split=split)),
                tuple(found.get(name, ())),
                categories={"domain": str(image["domain"])} if "domain" in image else {},
                group=name,
            )
        )
    return samples


def grit_refexp(folder: DataFolder, split: str) -> list[Sample]:
    """GRIT, referring expressions (Gupta et al., 2022): ``GRIT/samples/{split}/refexp.json``.

    The published samples have no boxes. Samples with ``input``, ``output`` and ``meta``, as the official
    ``evaluate.py`` reads them, have them.
    """
    samples = []
    for row in folder.rows(f"GRIT/samples/{split}/refexp.json"):
        given = row.mapping("input") if "input" in row else row
        boxes = row.mapping("output").get("bboxes") or [] if row.get("output") else []
        source = row.mapping("meta").get("is_new_source") if row.get("meta") else None
        image = str(given.get("image_id") or given["image_path"])
        samples.append(
            Sample(
                str(given["example_id"]),
                str(given["task_query"]),
                folder.images(image, "GRIT/images", "GRIT"),
                categories={} if source is None else {"source": "new" if source else "same"},
                extra={"box": list(boxes[0])} if boxes else {},
                group=image,
            )
        )
    return samples


def refcoco(folder: DataFolder, split: str, *, prefix: str) -> list[Sample]:
    """RefCOCO in the JSON lines of Qwen-VL, ``refcoco/{prefix}_{split}.jsonl``, a sentence in each.

    Without that file, the parquet files of lmms-lab on Hugging Face, such as ``RefCOCO/data/val-*.parquet``.
    """
    name = f"refcoco/{prefix}_{split}.jsonl"
    if not folder.has(name):
        tables = folder.matching(f"{LMMS_LAB[prefix]}/data/{split}-*.parquet")
        if tables:
            return _refcoco_tables(folder, tables)
    samples = []
    for number, row in enumerate(folder.rows(name)):
        image = str(row["image"])
        samples.append(
            Sample(
                str(number),
                str(row["sent"]),
                folder.images(image, "", "coco/train2014", "refcoco"),
                extra={
                    "box": _corners(row),
                    "width": row.whole("width"),
                    "height": row.whole("height"),
                },
                group=image,
            )
        )
    return samples


def _corners(row: Row) -> list[float]:
    """The four numbers of the box."""
    box = row.listed("bbox")
    if len(box) != 4 or not all(isinstance(one, int | float) for one in box):
        row.refuse(f"must have a bbox of four numbers, got {box}")
    return box


def _refcoco_tables(folder: DataFolder, tables: Iterable[Path]) -> list[Sample]:
    """A question for each sentence of the column ``answer``; ``bbox`` is left, top, width and height."""
    samples = list[Sample]()
    for path in tables:
        for row in folder.rows(path.relative_to(folder.root).as_posix()):
            samples += _refcoco_sentences(row, folder, len(samples))
    return samples


def _refcoco_sentences(row: Row, folder: DataFolder, start: int) -> Iterator[Sample]:
    """The sentences of a row, whose ids are numbers from ``start`` on."""
    from PIL import Image

    images = folder.images(row["image"], "")
    with Image.open(io.BytesIO(image_bytes(images[0]))) as opened:
        width, height = opened.size
    left, top, wide, high = _corners(row)
    named = COCO_IMAGE.match(str(row.get("file_name")))
    group = named[0] if named else str(images[0])
    for number, sentence in enumerate(row.listed("answer"), start):
        yield Sample(
            str(number),
            str(sentence),
            images,
            extra={
                "box": [left, top, left + wide, top + high],
                "width": width,
                "height": height,
            },
            group=group,
        )
