"""Readers of multiple-choice benchmarks whose published files are no tables of VLMEvalKit."""

import re
import string
from collections.abc import Sequence
from dataclasses import replace

from hdvl.evaluation.datasets.vlmevalkit import answer_list, letters, table_samples
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.metrics.mmmu_domains import DOMAIN_OF
from hdvl.evaluation.row import Row
from hdvl.evaluation.samples import ImageReference, Sample

MMMU_CHOICE = "Answer with the option's letter from the given choices directly."
MMMU_OPEN = "Answer the question using a single word or phrase."
MMMU_TABLES = {"dev": "MMMU_DEV_VAL.tsv", "val": "MMMU_DEV_VAL.tsv", "test": "MMMU_TEST.tsv"}
IMAGE_TAG = re.compile(r"<image (\d+)>")


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by the letters A, B, C and so on."""
    return dict(zip(string.ascii_uppercase, map(str, options), strict=False))


def mmmu(folder: DataFolder, split: str) -> list[Sample]:
    """MMMU (Yue et al., 2024): the parquet files ``MMMU/{subject}/{split}-*.parquet``.

    Or the table ``MMMU_DEV_VAL.tsv`` or ``MMMU_TEST.tsv`` of VLMEvalKit. Where question or options hold
    ``<image 1>``, it is replaced by the image with this number.
    """
    names = {"val": "validation"}
    name = names.get(split, split)
    table = MMMU_TABLES.get(split, "")
    if table and folder.has(table):
        return _mmmu_table(folder, table, name)
    files = folder.matching(f"MMMU/*/{name}-*.parquet")
    if not files:
        raise FileNotFoundError(
            f"there is no file {folder.root / 'MMMU'}/SUBJECT/{name}-*.parquet; "
            "download it, or change data_dir"
        )
    return [
        _mmmu_sample(row, folder)
        for path in files
        for row in folder.rows(path.relative_to(folder.root).as_posix())
    ]


def _mmmu_sample(row: Row, folder: DataFolder) -> Sample:
    options = lettered(row.literal("options"))
    shown = _tagged_images([str(row["question"]), *options.values()])
    images = folder.images([row[f"image_{number}"] for number in shown], "MMMU")
    answer = row.get("answer") or ""
    answers = row.literal("answer") if str(answer).startswith("[") else [answer]
    return _mmmu_worded(
        Sample(
            str(row["id"]),
            str(row["question"]),
            answers=tuple(map(str, answers)) if answer != "?" else (),
            options=options,
            group=str(row["id"]),
        ),
        images,
        _subject_of_id(str(row["id"])),
    )


def _tagged_images(texts: Sequence[str]) -> list[int]:
    """The numbers of the images in the order in which texts refer to them."""
    return [int(number) for text in texts for number in IMAGE_TAG.findall(text)]


def _subject_of_id(name: str) -> str:
    """The subject that an id names: validation_Art_Theory_3 is of Art_Theory."""
    return "_".join(name.split("_")[1:-1])


def _mmmu_worded(sample: Sample, images: tuple[ImageReference, ...], subject: str) -> Sample:
    """The question with its instruction, and with marks in place of the numbers of its images."""
    return replace(
        sample,
        question=IMAGE_TAG.sub("<image>", sample.question),
        images=images,
        options={letter: IMAGE_TAG.sub("<image>", text) for letter, text in sample.options.items()},
        categories={"subject": subject} if subject else {},
        extra={
            "instruction": f"\n{MMMU_CHOICE}" if sample.options else MMMU_OPEN,
            "bare_instruction": MMMU_CHOICE if sample.options else MMMU_OPEN,
        },
    )


def _mmmu_table(folder: DataFolder, table: str, split: str) -> list[Sample]:
    """The rows of a table of VLMEvalKit that belong to a split; all rows if it has no column of splits.

    The subject is that of the column ``id``, or of the column of categories that holds one. A question
    without a number of an image is asked with all images before it.
    """
    rows = (row for row in folder.rows(table) if str(row.get("split", split)) == split)
    columns = ("category", "l2-category")
    samples = []
    for one in table_samples(rows, folder, answers=_mmmu_answers, kinds={}, extra=("id", *columns)):
        shown = _tagged_images([one.question, *one.options.values()])
        if any(number > len(one.images) for number in shown):
            raise ValueError(
                f"question {one.id} of {table} must have {max(shown)} images, to which it refers, got "
                f"{len(one.images)}; download the table again"
            )
        named = [str(one.extra.get(column, "")).strip().replace(" ", "_") for column in columns]
        known = [name for name in named if name in DOMAIN_OF]
        subject = _subject_of_id(str(one.extra.get("id", "")))
        images = tuple(one.images[number - 1] for number in shown) if shown else one.images
        samples.append(_mmmu_worded(one, images, subject or next(iter(known), "")))
    if not samples:
        raise ValueError(
            f"{table} must have rows with {split} in the column split, it has none; download the table again"
        )
    return samples


def _mmmu_answers(cell: str) -> tuple[str, ...]:
    """The answers of a cell; none where the answer is hidden."""
    return () if cell == "?" else answer_list(cell)


def seed_bench(folder: DataFolder, split: str) -> list[Sample]:
    """SEED-Bench (Li et al., 2023), the questions about images: ``SEED-Bench.json``."""
    if folder.has("SEEDBench_IMG.tsv"):
        return table_samples(folder.rows("SEEDBench_IMG.tsv"), folder, allowed=letters)
    document = folder.document("seed_bench/SEED-Bench.json")
    kinds = {str(number): name for name, number in document.mapping("question_type").items()}
    samples = []
    for row in document.parts("questions"):
        if str(row.get("data_type", "image")) != "image":
            continue
        options = lettered([row[f"choice_{letter}"] for letter in "abcd"])
        samples.append(
            Sample(
                str(row["question_id"]),
                str(row["question"]),
                folder.images(str(row["data_id"]), "seed_bench/SEED-Bench-image", "seed_bench"),
                (row.choice("answer", options),),
                options=options,
                categories={"type": kinds.get(str(row["question_type_id"]), "")},
                group=str(row["data_id"]),
            )
        )
    return samples


def scienceqa(folder: DataFolder, split: str) -> list[Sample]:
    """ScienceQA (Lu et al., 2022), the questions with an image of a split of ``problems.json``.

    Or the table ``ScienceQA_{SPLIT}.tsv`` of VLMEvalKit.
    """
    table = f"ScienceQA_{split.upper()}.tsv"
    if folder.has(table):
        return table_samples(folder.rows(table), folder, allowed=letters)
    problems = dict(folder.entries("scienceqa/problems.json"))
    samples = []
    for name in folder.document("scienceqa/pid_splits.json").listed(split):
        if str(name) not in problems:
            raise ValueError(
                f"scienceqa/problems.json must have problem {name} of the split {split}, it has not; "
                "download it again"
            )
        problem = problems[str(name)]
        if not problem.get("image"):
            continue
        options = lettered(problem.listed("choices"))
        samples.append(
            Sample(
                str(name),
                str(problem["question"]),
                folder.images(
                    f"{split}/{name}/{problem['image']}", "scienceqa", "scienceqa/images"
                ),
                (_letter_of_place(problem, list(options)),),
                options=options,
                hint=str(problem.get("hint") or ""),
                categories={
                    key: str(problem[key]) for key in ("subject", "grade") if key in problem
                },
                group=str(name),
            )
        )
    return samples


def _letter_of_place(problem: Row, names: list[str]) -> str:
    """The letter of the right choice, which the problem names by its place from 0 on."""
    place = problem.choice("answer", [str(place) for place in range(len(names))])
    return names[int(place)]


def _by_number(sample: Sample) -> tuple[bool, int, str]:
    """Ids in the order of their numbers; those that are no numbers come after them."""
    number = sample.id.isdigit()
    return not number, int(sample.id) if number else 0, sample.id


def mmvp(folder: DataFolder, split: str) -> list[Sample]:
    """MMVP (Tong et al., 2024): ``MMVP/Questions.csv``; rows 1 and 2 are a pair, rows 3 and 4 the next.

    Without that file, ``MMVP.tsv`` of VLMEvalKit, whose rows are pairs in the order of their index.
    """
    if folder.has("MMVP.tsv") and not folder.has("MMVP/Questions.csv"):
        rows = table_samples(folder.rows("MMVP.tsv"), folder, allowed=letters)
        return [
            replace(one, extra={"pair": str(place // 2)}, group=f"pair {place // 2}")
            for place, one in enumerate(sorted(rows, key=_by_number))
        ]
    samples = []
    for number, row in enumerate(folder.rows("MMVP/Questions.csv")):
        index = str(row.get("Index") or row.get("lndex") or number + 1)
        parts = re.findall(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", str(row["Options"]))
        options = {letter.upper(): text for letter, text in parts}
        letter = str(row["Correct Answer"]).strip().strip("()").upper()
        samples.append(
            Sample(
                index,
                str(row["Question"]),
                folder.images(f"{index}.jpg", "MMVP/MMVP Images"),
                (row.allowed("Correct Answer", letter, options),),
                options=options,
                extra={
                    "pair": str(number // 2),
                    "raw_options": str(row["Options"]),
                    "raw_answer": str(row["Correct Answer"]),
                },
                group=f"pair {number // 2}",
            )
        )
    return samples


def mme_realworld(folder: DataFolder, split: str) -> list[Sample]:
    """MME-RealWorld (Zhang et al., 2024): ``mme_realworld/{split}.json``, or ``MME-RealWorld.tsv``."""
    if folder.has("MME-RealWorld.tsv"):
        return table_samples(folder.rows("MME-RealWorld.tsv"), folder, allowed=letters)
    samples = []
    for row in folder.rows(f"mme_realworld/{split}.json"):
        category = str(row["Category"]).lower()
        if "attribute" in category:
            category = f"{category.split('/')[0]}/attribute"
        listed = row.listed("Answer choices")
        found = [re.match(r"\(([A-Z])\)\s*(.*)", str(choice), re.DOTALL) for choice in listed]
        if None in found:
            row.refuse(f"must have Answer choices that begin with (A), (B), ..., got {listed}")
        options = {match[1]: match[2] for match in found if match}
        samples.append(
            Sample(
                str(row["Question_id"]),
                str(row["Text"]),
                folder.images(str(row["Image"]), "mme_realworld", "mme_realworld/images"),
                (row.choice("Ground truth", options),),
                options=options,
                categories={
                    "task": str(row["Task"]),
                    "subtask": f"{row['Task']}/{row['Subtask']}",
                    "category": f"{row['Task']}/{row['Subtask']}/{category}",
                },
                group=str(row["Image"]),
            )
        )
    return samples
