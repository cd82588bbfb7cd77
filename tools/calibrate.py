"""Fit the confidence of a model's answers to those that were judged (confidence.json).

    python tools/evaluate_small.py --model hdvl/assets/small --seed 20261000 --answers answers.jsonl
    python tools/calibrate.py --answers answers.jsonl --model hdvl/assets/small

Pages with even numbers are fitted. On those with odd numbers it prints how well the probability of the least
probable token separates right answers from wrong ones (area under the ROC curve), and how far the fitted
confidence is from the share of right answers (mean over tenths of the answers). Answers with boxes have a
curve of their own.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hdvl.inference.confidence import Calibration, Curve


def area_under_curve(lowest: Sequence[float], right: Sequence[bool]) -> float:
    """The probability that a right answer has a higher value than a wrong one; ties count half."""
    from scipy.stats import mannwhitneyu

    yes = [value for value, hit in zip(lowest, right, strict=True) if hit]
    no = [value for value, hit in zip(lowest, right, strict=True) if not hit]
    if not yes or not no:
        raise ValueError("the answers must hold right ones and wrong ones")
    return float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no))


def calibration_error(values: Sequence[float], right: Sequence[bool], parts: int = 10) -> float:
    """The mean distance between confidence and share of right answers, over groups of like confidence."""
    order = sorted(range(len(values)), key=values.__getitem__)
    size = -(-len(order) // parts)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    off = [abs(sum(values[n] - right[n] for n in group)) for group in groups]
    return sum(off) / len(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=Path, required=True, help="of tools/evaluate_small.py")
    parser.add_argument("--model", type=Path, required=True, help="the folder to write into")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.answers.read_text(encoding="utf-8").splitlines()]
    curves = dict[str, Curve]()
    for part, boxed in (("text", False), ("boxed", True)):
        some = [row for row in rows if row["boxed"] == boxed]
        fitted, held_out = ([row for row in some if row["number"] % 2 == rest] for rest in (0, 1))
        curve = Curve.fit([row["lowest"] for row in fitted], [row["right"] for row in fitted])
        lowest, right = ([row[name] for row in held_out] for name in ("lowest", "right"))
        off = calibration_error([curve(x) for x in lowest], right)
        print(
            f"{part}: {len(fitted)} answers fitted; of {len(held_out)} others "
            f"{sum(right) / len(right):.1%} are right, area under the curve "
            f"{area_under_curve(lowest, right):.3f}, calibration error {off:.3f}"
        )
        curves[part] = curve
    Calibration(**curves).write(args.model)


if __name__ == "__main__":
    main()
