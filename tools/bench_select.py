"""Accuracy against cost of reading only some windows of an image, and of smaller images.

    python tools/bench_select.py --out docs/select.csv

Asks one question about each of ``--pages`` synthetic pages that no training uses, and reads, at each budget
of windows,

- ``thumbnail``: the windows that the question attends to in the thumbnail (``select=thumbnail``);
- ``random``: as many windows drawn at random;
- ``oracle``: windows nearest to the answer, which shows what a perfect choice could reach;
- ``max_tiles``: the whole page at a size at which it has at most that many windows;

and once ``all``: the whole page. Nothing is cached, so that each question is paid in full. Prints a table,
writes it as CSV and draws it beside (``docs/select.png``). Answers are appended to ``--answers``, and those
that are there are not asked again.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from evaluate_small import HELD_OUT_SEED, judge

import hdvl
from hdvl.data.synthetic import Document, Question, SyntheticDocuments, read
from hdvl.files import atomic_write, write_text
from hdvl.inference import Pipeline, SamplingParams
from hdvl.inference.selection import (
    Budget,
    best_windows,
    cut_images,
    encode_prompt,
    select_windows,
    with_windows,
)
from hdvl.processor import Sample
from hdvl.protocols import Box, Message, TilePlan

WAYS = ("thumbnail", "random", "oracle", "max_tiles")
COLUMNS = ("way", "windows", "pages", "right", "found", "visual_tokens", "cpu_seconds")
NO_CACHE = {"prefix_cache_bytes": 0, "image_cache_bytes": 0, "max_slots": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hdvl/small")
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answers", type=Path, default=None, help="JSON lines, one an answer")
    parser.add_argument(
        "--out", type=Path, default=None, help="table as CSV; the plot is beside it"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = hdvl.load(args.model, engine=NO_CACHE)
    rows = _answered(args.answers)
    known = {(row["page"], row["way"], row["windows"]) for row in rows}
    settings = [("all", 0), *((way, count) for count in args.budgets for way in args.ways)]
    for number in range(args.pages):
        for way, count in settings:
            if (number, way, count) not in known:
                rows.append(ask(pipe, number, args.seed, way, count))
                if args.answers is not None:
                    with args.answers.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
        if number % 10 == 9:
            print(f"{number + 1} pages", flush=True)
    table = summarise([row for row in rows if row["page"] < args.pages])
    print("\n".join(lines(table)))
    if args.out is not None:
        write(args.out, table)


def page_of(number: int, seed: int) -> tuple[Document, Question, Box]:
    """A page, a question about one of its fields, and the place of the answer in pixels."""
    document = SyntheticDocuments(seed=seed)[number]
    field = random.Random(f"held out/{number}").choice(document.fields)
    return document, read(field), field.box


def ask(pipe: Pipeline, number: int, seed: int, way: str, count: int) -> dict[str, Any]:
    """Ask about one page with a budget, and judge the answer."""
    document, question, box = page_of(number, seed)
    messages = (Message("user", question.text, (document.image,)),)
    params = SamplingParams.of(max_new_tokens=64)
    began = time.process_time()
    sample = sample_of(pipe, messages, way, count, box, random.Random(f"{number}/{count}"))
    (answer,) = pipe.answers([(messages, sample, params)], in_flight=1)
    seconds = time.process_time() - began
    (plan,) = answer.plans
    return {
        "page": number,
        "way": way,
        "windows": count,
        "read": len(plan.windows),
        "right": judge(question, answer.text, [found.box for found in answer.boxes]),
        "found": any(_inside(box, window) for window in plan.boxes[plan.window_slice]),
        "visual_tokens": answer.numbers.visual_tokens,
        "cpu_seconds": seconds,
    }


def sample_of(
    pipe: Pipeline,
    messages: Sequence[Message],
    way: str,
    count: int,
    box: Box,
    rng: random.Random,
) -> Sample:
    """The prompt with what a way of choosing keeps of the page."""
    if way == "max_tiles":
        return encode_prompt(pipe.processor.limited(count), messages)
    processor, sample = pipe.processor, encode_prompt(pipe.processor, messages)
    (plan,) = sample.plans
    if way == "all" or len(plan.windows) <= count:
        return sample
    if way == "thumbnail":
        budget = Budget(select=way, select_tiles=count)
        return select_windows(pipe.engine, processor, messages, sample, encode_prompt, budget)
    if way == "random":
        windows = sorted(rng.sample(range(len(plan.windows)), count))
    else:
        windows = best_windows(-distances(plan, box), count)
    (image,) = cut_images(sample, messages)
    return with_windows(processor, messages, sample, encode_prompt, {image: windows})


def distances(plan: TilePlan, box: Box) -> torch.Tensor:
    """The distance of the centre of each window to that of a box."""
    windows = torch.tensor(plan.boxes[plan.window_slice])
    centres = (windows[:, :2] + windows[:, 2:]) / 2
    return (centres - (torch.tensor(box[:2]) + torch.tensor(box[2:])) / 2).norm(dim=1)


def _inside(box: Box, window: Box) -> bool:
    low, high = zip(box[:2], window[:2], strict=True), zip(box[2:], window[2:], strict=True)
    return all(a >= b for a, b in low) and all(a <= b for a, b in high)


def _answered(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each way and budget: shares and means over the pages."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["way"], row["windows"]), []).append(row)
    table = []
    for (way, count), group in groups.items():
        means = {name: mean(float(row[name]) for row in group) for name in COLUMNS[3:]}
        windows = f"{mean(row['read'] for row in group):.1f}" if way == "all" else str(count)
        table.append({"way": way, "windows": windows, "pages": len(group), **means})
    order = ("all", *WAYS)
    return sorted(table, key=lambda row: (order.index(row["way"]), float(row["windows"])))


def lines(table: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| read | windows | pages | right | answer within a window | visual tokens | CPU seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in table:
        yield (
            f"| {row['way']} | {row['windows']} | {row['pages']} | {row['right']:.0%} | "
            f"{row['found']:.0%} | {row['visual_tokens']:,.0f} | {row['cpu_seconds']:.2f} |"
        )


def write(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Write the table as CSV and draw it."""
    held = [",".join(COLUMNS)]
    for row in table:
        values = [
            f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name])
            for name in COLUMNS
        ]
        held.append(",".join(values))
    write_text(path, "\n".join(held) + "\n")
    draw(path.with_suffix(".png"), table)


def draw(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Draw the share of right answers over visual tokens and over CPU seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = (("visual_tokens", "visual tokens of a question"), ("cpu_seconds", "CPU seconds"))
    for axis, (name, label) in zip(axes, names, strict=True):
        for way in (*WAYS, "all"):
            rows = [row for row in table if row["way"] == way]
            if not rows:
                continue
            style = "*" if way == "all" else "o-"
            axis.plot([row[name] for row in rows], [row["right"] for row in rows], style, label=way)
        axis.set_xlabel(label)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right answers")
    axes[1].legend()
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)


if __name__ == "__main__":
    main()
