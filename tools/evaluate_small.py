"""Score a model on held-out synthetic documents: exact match of what it reads, IoU of what it finds.

    python tools/evaluate_small.py --model hdvl/small --count 500 --out scores.json

Images are at least 896 x 672 px and the text asked for is at most 18 px high. Each image is asked
one reading and one locating question about a field drawn at random. Restartable: answers are appended
to ``--answers`` and those that are there are not asked again.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
from torchvision.ops import box_iou

import hdvl
from hdvl.data.synthetic import SyntheticDocuments, locate, read
from hdvl.protocols import Message

HELD_OUT_SEED = 20_260_000
"""Training uses other seeds, and a page follows from its seed and number: no page is shared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hdvl/small")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--batch", type=int, default=4, help="images between two lines")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--answers", type=Path, default=None, help="JSON lines, one a question")
    parser.add_argument("--out", type=Path, default=None, help="summary as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = hdvl.load(args.model)
    rows = _answered(args.answers)
    for start in range(len(rows) // 2, args.count, args.batch):
        numbers = range(start, min(start + args.batch, args.count))
        asked = [question for number in numbers for question in _questions(pipe, number)]
        began = time.perf_counter()
        # One by one: without padding the causal kernel runs, several times as fast as a mask's.
        answers = [pipe.generate([chat], max_new_tokens=64)[0] for _, chat in asked]
        seconds = (time.perf_counter() - began) / len(asked)
        new = [
            _judge(row, answer, seconds) for (row, _), answer in zip(asked, answers, strict=True)
        ]
        rows += new
        if args.answers is not None:
            with args.answers.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
        print(f"{len(rows) // 2} images: {_line(rows)}", flush=True)
    summary = summarise(rows)
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    if args.out is not None:
        args.out.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def _answered(path: Path | None) -> list[dict]:
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows[: len(rows) // 2 * 2]


def _questions(pipe, number: int) -> list[tuple[dict, list[Message]]]:
    document = SyntheticDocuments(seed=HELD_OUT_SEED)[number]
    field = random.Random(f"held out/{number}").choice(document.fields)
    assert field.box[3] - field.box[1] <= 18 and document.image.width >= 896
    row = {"number": number, "kind": document.kind, "language": document.language}
    chosen = read(field), locate(field, document, pipe.template.boxes)
    return [
        (
            {**row, "task": question.task, "truth": field.value, "box": field.box},
            [Message("user", question.text, (document.image,))],
        )
        for question in chosen
    ]


def _judge(row: dict, answer, seconds: float) -> dict:
    row = {**row, "answer": answer.text, "seconds": round(seconds, 3)}
    if row["task"] == "read":
        return {**row, "right": answer.text.strip() == row["truth"]}
    found = torch.tensor([found.box for found in answer.boxes]).view(-1, 4)
    overlap = max(box_iou(found, torch.tensor([row["box"]])).flatten().tolist(), default=0.0)
    return {**row, "iou": round(overlap, 3), "right": overlap >= 0.5}


def _line(rows: list[dict]) -> str:
    summary = summarise(rows)
    return ", ".join(f"{task} {summary[task]['all']['right']:.3f}" for task in ("read", "locate"))


def summarise(rows: list[dict]) -> dict:
    """Shares of right answers by task, and within it by kind of document and by language."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for group in ("all", row["kind"], row["language"]):
            groups[row["task"]][group].append(row["right"])
    return {
        task: {
            name: {"right": round(sum(hits) / len(hits), 4), "of": len(hits)}
            for name, hits in sorted(parts.items())
        }
        for task, parts in groups.items()
    }


if __name__ == "__main__":
    main()
