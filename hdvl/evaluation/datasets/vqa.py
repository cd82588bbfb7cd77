"""Readers of question answering with short answers."""

from collections.abc import Iterable, Iterator, Mapping

from hdvl.evaluation.datasets.vlmevalkit import answer_list, table_samples
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.metrics.gqa import GQAQuestion
from hdvl.evaluation.row import Row
from hdvl.evaluation.samples import Sample


def vqa_v2(folder: DataFolder, split: str) -> Iterable[Sample]:
    """VQA v2: the question and the annotation file of a split, with the images of COCO."""
    questions = {
        "val": "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        "test-dev": "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json",
        "test": "vqav2/v2_OpenEnded_mscoco_test2015_questions.json",
    }
    annotations = {"val": "vqav2/v2_mscoco_val2014_annotations.json"}
    if split not in questions:
        raise ValueError(f"split of vqav2 must be one of {', '.join(questions)}, got {split!r}")
    year = "val2014" if split == "val" else "test2015"
    return _vqa(folder, questions[split], annotations.get(split), year)


def okvqa(folder: DataFolder, split: str) -> Iterable[Sample]:
    """OK-VQA: the question and the annotation file of its validation part."""
    if folder.has("OKVQA_VAL.tsv"):
        return table_samples(folder.rows("OKVQA_VAL.tsv"), folder, answers=answer_list)
    return _vqa(
        folder,
        "okvqa/OpenEnded_mscoco_val2014_questions.json",
        "okvqa/mscoco_val2014_annotations.json",
        "val2014",
    )


def _vqa(
    folder: DataFolder, questions: str, annotations: str | None, year: str
) -> Iterator[Sample]:
    rows = folder.rows(questions, under="questions")
    notes = folder.rows(annotations, under="annotations") if annotations is not None else None
    for row, note in with_notes(rows, notes, annotations or ""):
        number = row.whole("image_id")
        yield Sample(
            str(row["question_id"]),
            str(row["question"]),
            folder.images(f"COCO_{year}_{number:012d}.jpg", f"coco/{year}", year),
            note.answers("answer") if note is not None else (),
            categories={
                key: str(note[key])
                for key in ("question_type", "answer_type")
                if note and key in note
            },
            group=str(number),
        )


def with_notes(
    questions: Iterable[Row], notes: Iterable[Row] | None, name: str
) -> Iterator[tuple[Row, Row | None]]:
    """Each question with its annotation, by ``question_id``; only those out of order are kept in memory.

    Args:
        questions: the questions.
        notes: the annotations; ``None`` for hidden ones.
        name: the file of annotations, for the error.

    Raises:
        ValueError: a question has no annotation.
    """
    if notes is None:
        yield from ((row, None) for row in questions)
        return
    source, waiting = iter(notes), dict[str, Row]()
    for row in questions:
        wanted = str(row["question_id"])
        while wanted not in waiting:
            note = next(source, None)
            if note is None:
                raise ValueError(f"{name} must hold every question, question {wanted} is missing")
            waiting[str(note["question_id"])] = note
        yield row, waiting.pop(wanted)


def vizwiz(folder: DataFolder, split: str) -> list[Sample]:
    """VizWiz: the list of a split; the image's name is the id of its question."""
    samples = []
    for row in folder.rows(f"vizwiz/{split}.json"):
        kinds = {"answer_type": str(row["answer_type"])} if "answer_type" in row else {}
        image = str(row["image"])
        samples.append(
            Sample(
                image,
                str(row["question"]),
                folder.images(image, f"vizwiz/{split}", "vizwiz"),
                row.answers("answer"),
                categories=kinds,
                group=image,
            )
        )
    return samples


def textvqa(folder: DataFolder, split: str) -> Iterable[Sample]:
    """TextVQA 0.5.1. The field ``ocr`` has the reference tokens of ``ocr_tokens.jsonl``, if it exists."""
    if folder.has("TextVQA_VAL.tsv") and split == "val":
        return table_samples(folder.rows("TextVQA_VAL.tsv"), folder, answers=answer_list)
    tokens: dict[str, str] = {}
    if folder.has("textvqa/ocr_tokens.jsonl"):
        for row in folder.rows("textvqa/ocr_tokens.jsonl"):
            tokens[str(row["question_id"])] = ", ".join(map(str, row.listed("tokens")))
    rows = folder.rows(f"textvqa/TextVQA_0.5.1_{split}.json", under="data")
    return (_textvqa_sample(row, folder, tokens) for row in rows)


def _textvqa_sample(row: Row, folder: DataFolder, tokens: Mapping[str, str]) -> Sample:
    image, name = str(row["image_id"]), str(row["question_id"])
    return Sample(
        name,
        str(row["question"]),
        folder.images(f"{image}.jpg", "textvqa/train_images", "textvqa/test_images"),
        row.answers(),
        extra={"ocr": tokens.get(name, ""), "image_id": image},
        group=image,
    )


def _rrc(folder: DataFolder, names: Iterable[str], image_key: str, root: str) -> Iterator[Sample]:
    """The files of the Robust Reading Competition."""
    for row in folder.rows(*names, under="data"):
        image = str(row[image_key])
        kinds = row.listed("question_types") if row.get("question_types") else ()
        yield Sample(
            str(row["questionId"]),
            str(row["question"]),
            folder.images(image, root, f"{root}/images"),
            row.answers(),
            categories={"question_type": "/".join(map(str, kinds))} if kinds else {},
            group=image,
        )


def docvqa(folder: DataFolder, split: str) -> Iterable[Sample]:
    """DocVQA (Mathew et al., 2021): ``docvqa/{split}_v1.0.json``, or ``DocVQA_{SPLIT}.tsv`` of VLMEvalKit."""
    table = f"DocVQA_{split.upper()}.tsv"
    if folder.has(table):
        return table_samples(folder.rows(table), folder, answers=answer_list)
    names = (f"docvqa/{split}_v1.0_withQT.json", f"docvqa/{split}_v1.0.json")
    return _rrc(folder, names, "image", "docvqa")


def infovqa(folder: DataFolder, split: str) -> Iterable[Sample]:
    """InfographicsVQA (Mathew et al., 2022): ``infovqa/infographicsVQA_{split}_v1.0.json``."""
    table = f"InfoVQA_{split.upper()}.tsv"
    if folder.has(table):
        return table_samples(folder.rows(table), folder, answers=answer_list)
    names = (
        f"infovqa/infographicsVQA_{split}_v1.0_withQT.json",
        f"infovqa/infographicsVQA_{split}_v1.0.json",
    )
    return _rrc(folder, names, "image_local_name", "infovqa")


def chartqa(folder: DataFolder, split: str) -> list[Sample]:
    """ChartQA (Masry et al., 2022): the human and the augmented part, one after the other."""
    if folder.has("ChartQA_TEST.tsv") and split == "test":
        return table_samples(folder.rows("ChartQA_TEST.tsv"), folder, kinds={"split": "part"})
    samples = []
    for part in ("human", "augmented"):
        for number, row in enumerate(
            folder.rows(f"chartqa/{split}_{part}.json", f"chartqa/{split}/{split}_{part}.json")
        ):
            image = str(row["imgname"])
            samples.append(
                Sample(
                    f"{part}_{number}",
                    str(row["query"]),
                    folder.images(image, f"chartqa/{split}/png", "chartqa/png"),
                    (str(row["label"]),),
                    categories={"part": part},
                    group=image,
                )
            )
    return samples


def gqa(folder: DataFolder, split: str) -> Iterable[Sample]:
    """GQA (Hudson and Manning, 2019): ``gqa/{split}_balanced_questions.json``.

    Without that file, ``GQA_TestDev_Balanced.tsv`` of VLMEvalKit, which does not have the types of the
    questions: ``extra`` has no ``gqa``.
    """
    names = (f"gqa/{split}_balanced_questions.json", f"gqa/{split}_all_questions.json")
    table = "GQA_TestDev_Balanced.tsv"
    if split == "testdev" and folder.has(table) and not any(map(folder.has, names)):
        return table_samples(folder.rows(table), folder)
    return _gqa(folder, names)


def _gqa(folder: DataFolder, names: Iterable[str]) -> Iterator[Sample]:
    for name, question in folder.entries(*names):
        image = str(question["imageId"])
        balanced, keys = question["isBalanced"], GQAQuestion.__annotations__
        scored = {key: question[key] for key in keys if balanced or key in question}
        yield Sample(
            name,
            str(question["question"]),
            folder.images(f"{image}.jpg", "gqa/images"),
            (str(question["answer"]),),
            extra={"gqa": scored},
            group=image,
        )


def ocrvqa(folder: DataFolder, split: str) -> list[Sample]:
    """OCR-VQA (Mishra et al., 2019): the books of a split in ``dataset.json`` and their questions."""
    table = f"OCRVQA_{split.upper()}.tsv"
    if folder.has(table):
        return table_samples(folder.rows(table), folder)
    numbers = {"train": 1, "val": 2, "test": 3}
    if split not in numbers:
        raise ValueError(f"split of ocrvqa must be one of {', '.join(numbers)}, got {split!r}")
    samples = []
    for book, entry in folder.entries("ocrvqa/dataset.json"):
        if entry.whole("split") != numbers[split]:
            continue
        suffix = str(entry["imageURL"]).rpartition(".")[2]
        images = folder.images(f"{book}.{suffix}", "ocrvqa/images")
        questions, answers = entry.listed("questions"), entry.listed("answers")
        if len(questions) != len(answers):
            entry.refuse(
                f"must have one answer for each of {len(questions)} questions, it has {len(answers)}"
            )
        pairs = zip(questions, answers, strict=True)
        for number, (question, answer) in enumerate(pairs):
            samples.append(
                Sample(f"{book}_{number}", str(question), images, (str(answer),), group=str(book))
            )
    return samples
