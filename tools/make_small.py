"""Train the shipped small model from random weights, step by step; a second call continues it.

    python tools/make_small.py [--list]

The steps are those of tools/small_recipe.yaml. A step that has been completed is not run again, which a file
with the suffix ``.done`` next to its result records. A step that was interrupted continues from its last
checkpoint.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TOOLS = Path(__file__).resolve().parent
FOLDER = Path("runs/small")


def steps(folder: Path = FOLDER) -> list[tuple[Path, list[str]]]:
    """What each step of the recipe leaves, and its command."""
    recipe = yaml.safe_load((TOOLS / "small_recipe.yaml").read_text(encoding="utf-8"))
    return [(folder / step["out"], command(step, folder)) for step in recipe]


def command(step: dict[str, Any], folder: Path) -> list[str]:
    """The command of one step."""
    start = [sys.executable, str(TOOLS / f"{step['tool']}.py")]
    source = [str(folder / step["from"])] if "from" in step else []
    if step["tool"] == "train_small":  # takes the words of hdvl train
        run = folder / Path(step["out"]).parts[0]
        if (run / "train.yaml").exists():
            return [*start, f"resume={run}"]
        return [*start, "experiment=small", f"init_from={source[0]}", f"run_dir={run}"]
    out = ["--out", str(folder / step["out"])]
    if step["tool"] == "average_small":
        return [*start, *source, str(_single(folder, step["other"])), *out]
    words = ["--init-from", *source] if source else []
    for key, suffix in _RESULTS.items():
        if key in step:
            words += [f"--{key}", str(folder / f"{step[key]}{suffix}")]
    given = {key: value for key, value in step.items() if key not in _PLACES}
    return [*start, *words, *out, *(word for pair in given.items() for word in _option(*pair))]


_RESULTS = {"reader": "", "heads": ".checkpoint.pt", "head": ".checkpoint.pt"}
"""Options that name results of earlier steps, and what these files end in."""
_PLACES = ("out", "tool", "from", "other", *_RESULTS)


def _option(key: str, value: object) -> tuple[str, ...]:
    return f"--{key}", *map(str, value if isinstance(value, list) else [value])


def _single(folder: Path, pattern: str) -> Path:
    """The one path that a pattern names; before it is there, the pattern itself."""
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise ValueError(f"{folder / pattern} must name one path, it names {found}")
    return found[0] if found else folder / pattern


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args()
    for number, (out, _) in enumerate(steps()):
        words = steps()[number][1]  # made again: a pattern names what the steps before left
        print(f"[{out}] {shlex.join(words)}", flush=True)
        done = Path(f"{out}.done")
        if not args.list and not done.exists():
            subprocess.run(words, check=True)
            done.touch()


if __name__ == "__main__":
    main()
