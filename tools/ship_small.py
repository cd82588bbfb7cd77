"""Put a trained small model into the package, with its model card.

    python tools/ship_small.py --model runs/small/model --curve runs/small/model.curve.csv --scores FILE

The text of the card is that of ``tools/small_card.md``, in which ``{scores}`` is replaced by the table of
``--scores`` (written by ``tools/evaluate_small.py``) and ``{curve}`` by the losses of ``--curve``.
"""

import argparse
import csv
import json
from pathlib import Path

from hdvl.checkpoints import load_folder, read_config, save_folder
from hdvl.files import write_text

SHIPPED = Path(__file__).resolve().parent.parent / "hdvl" / "assets" / "small"


def scores_table(path: Path) -> str:
    """A Markdown table of the share of right answers, over all documents and by language."""
    rows = ["| set and task | documents | right | of |", "|---|---|---:|---:|"]
    for task, groups in json.loads(path.read_text()).items():
        for name in ("all", "en", "zh"):
            if name in groups:
                right, count = groups[name]["right"], groups[name]["of"]
                rows.append(f"| {task} | {name} | {right:.3f} | {count} |")
    return "\n".join(rows)


def curve_row(path: Path, parts: int = 6) -> str:
    """A row of a Markdown table: the mean loss over equal parts of a training, from ``OUT.curve.csv``."""
    with path.open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    size = -(-len(rows) // parts)
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    shown = ", ".join(f"{sum(loss for _, loss in group) / len(group):.2f}" for group in groups)
    return f"| {path.name.removesuffix('.curve.csv')} | {rows[-1][0]} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument(
        "--curve", type=Path, help="losses of a training since the card was written"
    )
    parser.add_argument("--card-only", action="store_true", help="leave the weights as they are")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--card", type=Path, default=Path(__file__).with_name("small_card.md"))
    args = parser.parse_args()
    card = args.card.read_text(encoding="utf-8").replace("{scores}", scores_table(args.scores))
    curve = "" if args.curve is None else f"{curve_row(args.curve)}\n"
    card = card.replace("{curve}\n", curve)
    if args.card_only:
        write_text(SHIPPED / "README.md", card)
        return
    # Only the composition of the model is kept; the folders of its training are not those of its users.
    config = {"model": read_config(args.model)["model"]}
    save_folder(load_folder(args.model), SHIPPED, config, licence="Apache-2.0", card=card)
    size = sum(path.stat().st_size for path in SHIPPED.iterdir())
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
