"""Readers of benchmarks whose open answers a judge scores."""

from dataclasses import replace

from hdvl.evaluation.datasets.vlmevalkit import image_references, table_samples
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.samples import Sample

LLAVA_BENCH = "llava-bench-in-the-wild"
TOUCHSTONE = "touchstone/touchstone_20230831.tsv"


def llava_bench(folder: DataFolder, split: str) -> list[Sample]:
    """LLaVA-Bench (in the wild; Liu et al., 2023): questions, contexts and GPT-4's answers of its folder.

    Or the table ``LLaVABench.tsv`` of VLMEvalKit, with the columns ``caption`` and ``gpt4_ans``.

    Raises:
        ValueError: an image has no context, the answers of GPT-4 are not those to the questions, or the
            table lacks a column.
    """
    if folder.has("LLaVABench.tsv"):
        return _llava_bench_table(folder)
    contexts = {str(row["image"]): row for row in folder.rows(f"{LLAVA_BENCH}/context.jsonl")}
    references = list(folder.rows(f"{LLAVA_BENCH}/answers_gpt4.jsonl"))
    questions = list(folder.rows(f"{LLAVA_BENCH}/questions.jsonl"))
    if [row["question_id"] for row in references] != [row["question_id"] for row in questions]:
        raise ValueError(
            f"answers_gpt4.jsonl must answer the {len(questions)} questions of questions.jsonl in their "
            "order, it does not; download both again"
        )
    samples = []
    for row, reference in zip(questions, references, strict=True):
        image = str(row["image"])
        if image not in contexts:
            raise ValueError(f"context.jsonl must describe every image, {image} is missing")
        caption = contexts[image]["caption"]
        samples.append(
            Sample(
                str(row["question_id"]),
                str(row["text"]),
                folder.images(image, f"{LLAVA_BENCH}/images"),
                categories={"category": str(row["category"])},
                extra={
                    "caption": "\n".join(caption) if isinstance(caption, list) else str(caption),
                    "reference": str(reference["text"]),
                },
                group=image,
            )
        )
    return samples


def _llava_bench_table(folder: DataFolder) -> list[Sample]:
    columns = ("category", "caption", "gpt4_ans")
    samples = []
    for one in table_samples(folder.rows("LLaVABench.tsv"), folder, extra=columns):
        missing = [name for name in columns if name not in one.extra]
        if missing:
            raise ValueError(
                f"LLaVABench.tsv must have the column {missing[0]}, it has not; download it again"
            )
        known = {"caption": str(one.extra["caption"]), "reference": str(one.extra["gpt4_ans"])}
        samples.append(
            replace(one, categories={"category": str(one.extra["category"])}, extra=known)
        )
    return samples


def touchstone(folder: DataFolder, split: str) -> list[Sample]:
    """TouchStone (Bai et al., 2023): ``touchstone/touchstone_20230831.tsv``.

    A row without an index has its number, as in the official script.
    """
    samples = []
    for number, row in enumerate(folder.rows(TOUCHSTONE)):
        references = image_references(row, folder, "touchstone")
        index = str(row.get("index") or number)
        samples.append(
            Sample(
                index,
                str(row["question"]),
                references,
                categories={"category": str(row["category"]), "task": str(row["task_name"])},
                extra={key: str(row[key]) for key in ("human_annotation", "gpt4_ha_answer")},
                group=" ".join(map(str, references)) or index,
            )
        )
    return samples


def mm_vet(folder: DataFolder, split: str) -> list[Sample]:
    """MM-Vet (Yu et al., 2024): ``mm-vet/mm-vet.json``, or ``MMVet.tsv`` of VLMEvalKit."""
    if folder.has("MMVet.tsv"):
        kinds = {"category": "capabilities"}
        return table_samples(folder.rows("MMVet.tsv"), folder, kinds=kinds)
    samples = []
    for name, row in folder.entries("mm-vet/mm-vet.json"):
        image = str(row["imagename"])
        samples.append(
            Sample(
                str(name),
                str(row["question"]),
                folder.images(image, "mm-vet/images"),
                (str(row["answer"]),),
                categories={"capabilities": ",".join(sorted(map(str, row.listed("capability"))))},
                group=image,
            )
        )
    return samples
