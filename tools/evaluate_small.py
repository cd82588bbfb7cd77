"""Score a model on held-out synthetic documents: what it reads, what it finds, and what it refuses.

    python tools/evaluate_small.py --model hdvl/small --count 60 --out scores.json

Each set of pages has a seed that no training uses, and its rows are scored apart:

- ``own``: clean pages of the first seven kinds, asked to read, to locate, and for something absent;
- ``foreign``: layouts and fonts that no training draws, a third of them as if photographed;
- ``turned``: own pages turned by 1 to 5 degrees to either side;
- ``reworded``: own pages, asked in other words (upper case, "Total?");
- ``pictures``: blank pages and pictures that are no documents, asked for anything.

Reading is right if the answer is the value, character by character; locating if the box has an IoU of at
least 0.5; a refusal if it is the fixed sentence, in English or Chinese. Images are at least 896 x 672 px.
Restartable: answers are appended to ``--answers``, and those that are there are not asked again. A row holds
the lowest probability of the answer's tokens too, from which ``tools/calibrate.py`` fits its confidence.
"""

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_iou

import hdvl
from hdvl.data.synthetic import (
    Document,
    Question,
    SyntheticDocuments,
    absent,
    locate,
    read,
    turned,
)
from hdvl.data.synthetic.questions import refusal, wordings
from hdvl.inference.pipeline import Pipeline
from hdvl.protocols import Message

HELD_OUT_SEED = 20_260_000
"""Training uses other seeds, and a page follows from its seed and number: no page is shared."""
SETS = ("own", "foreign", "turned", "reworded", "pictures")
REFUSALS = {refusal("en"), refusal("zh")}


def document_of(pages: str, number: int, seed: int) -> Document:
    """Page ``number`` of a set."""
    if pages == "foreign":
        options: dict[str, Any] = {"kinds": "foreign", "fonts": "held_out", "photographed": 1 / 3}
        return SyntheticDocuments(seed=seed + 1, turn=3.0, **options)[number]
    if pages == "pictures":
        return SyntheticDocuments(seed=seed + 2, kinds="picture")[number]
    document = SyntheticDocuments(seed=seed)[number]
    if pages == "turned":
        rng = random.Random(f"turned/{number}")
        tilted = turned(document, rng.choice((-1, 1)) * rng.uniform(1, 5))
        return tilted if tilted.fields else document
    return document


def questions(pages: str, document: Document, number: int, boxes: Any) -> Iterator[Question]:
    """What is asked about a page of a set."""
    rng = random.Random(f"held out/{number}")
    if pages == "pictures":
        yield absent(document, rng)
        return
    field = rng.choice(document.fields)
    if pages == "reworded":
        yield read(field, rng.choice(wordings("read", document.language)))
        return
    yield read(field)
    yield locate(field, document, boxes)
    if pages != "turned":
        yield absent(document, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hdvl/small")
    parser.add_argument("--count", type=int, default=500, help="pages of each set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--answers", type=Path, default=None, help="JSON lines, one a question")
    parser.add_argument("--out", type=Path, default=None, help="summary as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = hdvl.load(args.model)
    rows = _answered(args.answers)
    known = {(row["set"], row["number"]) for row in rows}
    for number in range(args.count):
        for pages in args.sets:
            if (pages, number) in known:
                continue
            new = list(ask(pipe, pages, number, args.seed))
            rows += new
            if args.answers is not None:
                with args.answers.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
        if number % 10 == 9:
            print(f"{number + 1} pages: {_line(rows)}", flush=True)
    summary = summarise(rows)
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    if args.out is not None:
        args.out.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def ask(pipe: Pipeline, pages: str, number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Ask about page ``number`` of a set, and judge the answers."""
    document = document_of(pages, number, seed)
    row = {"set": pages, "number": number, "kind": document.kind, "language": document.language}
    for question in questions(pages, document, number, pipe.template.boxes):
        chat = [Message("user", question.text, (document.image,))]
        began = time.perf_counter()
        # One by one: without padding the causal kernel runs, several times as fast as a mask's.
        generation = pipe.submit(chat, max_new_tokens=64, logprobs=0).wait()
        seconds, size = time.perf_counter() - began, document.image.size
        boxes, _ = pipe.template.boxes.decode_with_errors(generation.text, [size])
        lowest = min((token.logprob for token in generation.logprobs), default=-math.inf)
        yield {
            **row,
            "task": question.task,
            "asked": question.text,
            "truth": question.answer,
            "answer": generation.text,
            "right": judge(question, generation.text, [box.box for box in boxes]),
            "boxed": bool(boxes),
            "lowest": round(math.exp(lowest), 6),
            "seconds": round(seconds, 3),
        }


def judge(question: Question, text: str, boxes: list[Any]) -> bool:
    """Whether an answer, and the boxes in it, are right."""
    if question.task == "absent":
        return text.strip() in REFUSALS
    if question.box is None:
        return text.strip() == question.answer
    found = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    wanted = torch.tensor([question.box], dtype=torch.float32)
    return max(box_iou(found, wanted).flatten().tolist(), default=0.0) >= 0.5


def _answered(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _line(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{name} {found['all']['right']:.2f}" for name, found in summarise(rows).items()
    )


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Shares of right answers by set and task, and within these by kind of document and by language."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for group in ("all", row["kind"], row["language"]):
            groups[f"{row['set']} {row['task']}"][group].append(row["right"])
    return {
        name: {
            group: {"right": round(sum(hits) / len(hits), 4), "of": len(hits)}
            for group, hits in sorted(parts.items())
        }
        for name, parts in groups.items()
    }


if __name__ == "__main__":
    main()
