"""Trains the designs of ``experiment=study/*`` under equal compute, and writes a table and plots of them.

    OMP_NUM_THREADS=1 nice -n 10 python tools/make_study.py --out runs/study [--seeds 3] [--designs tiles]
    python tools/make_study.py --out runs/study --report docs

The number of steps of a design follows from ``--budget``, FLOPs of training by the formula of ``hdvl plan``.
One folder holds one run; a finished run is not repeated, and an interrupted one is continued. The table
is written after every run. ``--report`` writes it and the plot to a folder and trains nothing.
"""

import argparse
import csv
import io
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdvl.command import plain_config
from hdvl.config import CONF_DIR, compose, resolve
from hdvl.files import atomic_write, write_text

BUDGET = 1.2e12
"""FLOPs: 155 steps of 16 pages with tiles and a thumbnail."""
PAGES, TEXT, HELD_OUT = 256, 20, 1_000_000
"""Pixels of a page, tokens of text, and the seed of the pages that are asked."""
TOLD = 3
"""Most tokens of an answer."""
KINDS = ("mark", "figure")
FIELDS = ("design", "seed", "steps", "tiles", "tokens", "gflop_a_step", "cpu_seconds", *KINDS)
ORDER = (
    *("thumbnail", "tiles", "tiles_thumbnail", "large_tiles", "overlap_concat", "overlap_blend"),
    *("bridge_mlp", "bridge_resampler", "bridge_pooling", "bridge_conv"),
)
QUIET = ("first_batch", "plots", "live_plot", "answers")
"""Callbacks that only show something."""


def designs() -> list[str]:
    """The names of all designs, in the order of the table."""
    found = {path.stem for path in (CONF_DIR / "experiment/study").glob("*.yaml")}
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def cost(design: str) -> tuple[int, int, int, int]:
    """Tiles and visual tokens of a page, FLOPs of a step of training, and the size of its batch."""
    from hdvl.meta import on_meta
    from hdvl.training.estimate import measure

    config = resolve(compose(f"experiment=study/{design}", config_name="train"))
    vlm: Any = on_meta(config["model"])
    plan, batch = vlm.tiler.plan(PAGES, PAGES), int(config["data"]["batch_size"])
    step = measure(vlm, plan, text_tokens=TEXT).step * batch
    return plan.count, vlm.merger.token_count(plan), step, batch


def train(design: str, seed: int, steps: int, folder: Path) -> Path:
    """Train a design, or continue its training, and return the folder of the model."""
    from hdvl.data.build import build_data
    from hdvl.training.run import resumed, run

    if (folder / "train.yaml").exists():
        return run(resumed(str(folder), {}), build_data)
    words = [
        f"experiment=study/{design}",
        f"seed={seed}",
        f"data.train.seed={seed}",
        f"trainer.max_steps={steps}",
        f"run_dir={folder}",
    ]
    config = plain_config(compose(*words, config_name="train"), words, resolved=False)
    config["callbacks"] = {k: v for k, v in config["callbacks"].items() if k not in QUIET}
    return run(config, build_data)


def ask(model: Path, pages: int) -> dict[str, float]:
    """Share of right answers about held-out pages, in per cent, by kind of question."""
    import hdvl
    from hdvl.data.synthetic.marks import QUESTIONS, MarkedPages
    from hdvl.protocols import Message

    pipe, source = hdvl.load(model), MarkedPages(seed=HELD_OUT)
    asked = [source.page(number) for number in range(pages)]
    chats = [[Message("user", one.question, (one.image,))] for one in asked]
    answers = pipe.generate(chats, max_new_tokens=TOLD)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for page, answer in zip(asked, answers, strict=True):
        right[QUESTIONS[page.question]].append(answer.text.strip() == page.shape)
    return {kind: 100 * sum(hits) / len(hits) for kind, hits in right.items()}


def one_run(design: str, seed: int, out: Path, budget: float, pages: int) -> dict[str, Any]:
    """The result of a run, which is computed if it does not exist."""
    folder = out / design / str(seed)
    result = folder / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    tiles, tokens, step, _ = cost(design)
    began = time.process_time()
    model = train(design, seed, max(1, round(budget / step)), folder)
    seconds = time.process_time() - began
    row = {
        **{"design": design, "seed": seed, "steps": max(1, round(budget / step))},
        **{"tiles": tiles, "tokens": tokens, "gflop_a_step": round(step / 1e9, 3)},
        **{"cpu_seconds": round(seconds, 1), **ask(model, pages)},
    }
    write_text(result, json.dumps(row, indent=1) + "\n")
    return row


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and half-width of Student's interval of 95 per cent, within 0..100; the last is the number."""
    from scipy.stats import t

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, math.nan, count
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return mean, half, count


def results(out: Path) -> list[dict[str, Any]]:
    """The rows of all finished runs."""
    order = {name: number for number, name in enumerate(designs())}
    rows = [json.loads(path.read_text()) for path in out.glob("*/*/result.json")]
    return sorted(rows, key=lambda row: (order.get(row["design"], 99), row["seed"]))


def write_table(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``study.csv``, a row for each run, and print the means."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "study.csv", text.getvalue())
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The means of the designs over their seeds, as a table of Markdown."""
    lines = [
        "| design | tiles | tokens | steps | CPU s | marks (%) | figures (%) | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["design"] for row in rows):
        own = [row for row in rows if row["design"] == name]
        cells = []
        for kind in KINDS:
            mean, half, _ = interval([float(row[kind]) for row in own])
            cells.append(f"{mean:.0f} ± {half:.0f}" if half == half else f"{mean:.0f}")
        seconds = statistics.median(float(row["cpu_seconds"]) for row in own)
        first = own[0]
        lines.append(
            f"| `{name}` | {first['tiles']} | {first['tokens']} | {first['steps']} | {seconds:.0f} | "
            f"{cells[0]} | {cells[1]} | {len(own)} |"
        )
    return "\n".join(lines)


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the accuracies of all designs, the mean of the seeds with its interval and every seed."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["design"] for row in rows))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, kind in zip(panels, KINDS, strict=True):
        for number, name in enumerate(names):
            values = [float(row[kind]) for row in rows if row["design"] == name]
            mean, half, _ = interval(values)
            error = 0.0 if half != half else half
            low, high = min(error, mean), min(error, 100 - mean)
            panel.errorbar(mean, number, xerr=[[low], [high]], fmt="o", color="C0", capsize=3)
            panel.plot(values, [number + 0.22] * len(values), ".", color="C1", ms=4)
        panel.axvline(100 / 6, color="grey", ls=":", lw=1)
        panel.set(title=f"{kind}s", xlabel="right answers (%)", xlim=(-3, 103))
        panel.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder with one folder a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--designs", default=None, help="names, separated by commas")
    parser.add_argument("--budget", type=float, default=BUDGET, help="FLOPs of a run")
    parser.add_argument("--pages", type=int, default=200, help="held-out pages that are asked")
    parser.add_argument(
        "--report", type=Path, default=None, help="write the table here, train nothing"
    )
    args = parser.parse_args()
    if args.report is None:
        names = designs() if args.designs is None else args.designs.split(",")
        for seed in range(args.seeds):
            for name in names:
                row = one_run(name, seed, args.out, args.budget, args.pages)
                print(json.dumps(row), flush=True)
                write_table(args.out, results(args.out))
    place = args.out if args.report is None else args.report
    write_table(place, results(args.out))
    plot(place / "study.png", results(args.out))


if __name__ == "__main__":
    main()
