"""Compare hdvl's metrics with recorded outputs of the official scorers.

    python tools/check_eval_parity.py FOLDER

FOLDER has one JSON file for each scorer, named as in ``CHECKS``. For each file a line
gives the number of compared values and the largest difference; "inf" means that texts, parsed answers or
verdicts differ. The exit status is 1 if a difference exceeds its tolerance (1e-6; 0.01 for
GQA, which prints two decimals) or a file has no check.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import eval_parity_choices
import eval_parity_text
from eval_parity import Compared

CHECKS = {**eval_parity_choices.CHECKS, **eval_parity_text.CHECKS}
TOLERANCE = 1e-6
TOLERANCES = {"gqa": 0.01}
SHOWN = 5  # number of differences of a file that are printed
PROSE = {"metric", "note", "notes", "recommended", "row_format", "sources", "threshold"}


class Recorded(dict[str, Any]):
    """The content of a file, which remembers what was read of it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.unread = set(content) - PROSE

    def __getitem__(self, key: str) -> Any:
        self.unread.discard(key)
        return super().__getitem__(key)


def difference(got: object, expected: object) -> float:
    """Return the largest difference between two values or their members, or inf if their types differ."""
    if isinstance(got, bool) != isinstance(expected, bool):
        return math.inf
    if isinstance(got, int | float) and isinstance(expected, int | float):
        if math.isnan(got) or math.isnan(expected):
            return 0.0 if math.isnan(got) and math.isnan(expected) else math.inf
        return abs(got - expected) if got != expected else 0.0
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        if got.keys() != expected.keys():
            return math.inf
        return max((difference(got[key], expected[key]) for key in got), default=0.0)
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        if len(got) != len(expected):
            return math.inf
        return max(map(difference, got, expected), default=0.0)
    return 0.0 if got == expected else math.inf


def check(name: str, values: Iterable[Compared]) -> bool:
    """Print the line of a file and its first differences; True when all are within tolerance."""
    tolerance = TOLERANCES.get(name, TOLERANCE)
    worst, count, wrong = 0.0, 0, []
    for label, got, expected in values:
        apart = difference(got, expected)
        worst, count = max(worst, apart), count + 1
        if not apart <= tolerance:
            wrong.append(f"  {label}: got {got!r}, the official scorer {expected!r}")
    print(f"{name:<22} {count:>6} values, worst difference {worst:.3g}")
    for line in wrong[:SHOWN]:
        print(line)
    if len(wrong) > SHOWN:
        print(f"  and {len(wrong) - SHOWN} more")
    return not wrong


def main(arguments: list[str]) -> int:
    """Check every file of the folder."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(f"usage: check_eval_parity.py FOLDER with JSON files, got {arguments}")
        return 2
    files = sorted(Path(arguments[0]).glob("*.json"))
    if not files:
        print(f"no JSON file in {arguments[0]}")
        return 1
    fine = True
    for path in files:
        if path.stem not in CHECKS:
            print(f"{path.stem:<22} has no check; the checks are {', '.join(CHECKS)}")
            fine = False
            continue
        data = Recorded(json.loads(path.read_text(encoding="utf-8")))
        fine = check(path.stem, CHECKS[path.stem](data)) and fine
        if data.unread:
            print(f"  not compared: {', '.join(sorted(data.unread))}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
