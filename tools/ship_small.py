"""Put a trained small model into the package, with its model card.

    python tools/ship_small.py --model runs/small/model --card tools/small_card.md

The card's text is written by hand in ``tools/small_card.md``; ``{scores}`` in it becomes the table of
``--scores`` (of ``tools/evaluate_small.py``) and ``{curve}`` the rows of the stages of ``--run``.
"""

import argparse
import csv
import json
from pathlib import Path

from hdvl.checkpoints import load_folder, read_config, save_folder

SHIPPED = Path(__file__).resolve().parent.parent / "hdvl" / "assets" / "small"


def scores_table(path: Path) -> str:
    """A Markdown table: task, group, share right, number."""
    rows = ["| task | documents | right | of |", "|---|---|---:|---:|"]
    for task, groups in json.loads(path.read_text()).items():
        for name, numbers in groups.items():
            rows.append(f"| {task} | {name} | {numbers['right']:.3f} | {numbers['of']} |")
    return "\n".join(rows)


def curve_table(run: Path, parts: int = 6) -> str:
    """Rows of a Markdown table: the mean training loss over equal parts of each stage."""
    rows = []
    for metrics in sorted(run.glob("*/metrics.csv")):
        with metrics.open(newline="") as file:
            losses = [
                (int(row["step"]), float(row["value"]))
                for row in csv.DictReader(file)
                if row["name"] == "train/loss"
            ]
        size = -(-len(losses) // parts)
        means = [
            sum(loss for _, loss in losses[start : start + size])
            / len(losses[start : start + size])
            for start in range(0, len(losses), size)
        ]
        shown = ", ".join(f"{mean:.2f}" for mean in means)
        rows.append(f"| {metrics.parent.name} | {losses[-1][0] + 1} | {shown} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--card", type=Path, default=Path(__file__).with_name("small_card.md"))
    args = parser.parse_args()
    card = args.card.read_text(encoding="utf-8").replace("{scores}", scores_table(args.scores))
    card = card.replace("{curve}", curve_table(args.run))
    # The model alone: how it was trained is on the card, and folders of a run mean nothing elsewhere.
    config = {"model": read_config(args.model)["model"]}
    save_folder(load_folder(args.model), SHIPPED, config, licence="Apache-2.0", card=card)
    size = sum(path.stat().st_size for path in SHIPPED.iterdir())
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
