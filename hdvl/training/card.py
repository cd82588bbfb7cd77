"""What the card of a trained model says about its training: base model, data, licence and scores."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.card import read_licence
from hdvl.checkpoints.sources import find_folder
from hdvl.training.curves import read_curves
from hdvl.training.tuning import MODULES

_PLACES = ("path", "shards", "local", "remote")
_SCORES = {
    "train/loss": "training loss, mean of the last 5 %",
    "validation/loss": "validation loss",
    "validation/answers": "validation answers whose every token is right, given the tokens before it",
}


def run_card(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``licence``, ``base_model`` and ``about`` for :func:`hdvl.checkpoints.save_folder`.

    Args:
        stages: the resolved configs of a run, whose folders hold its metrics.
    """
    base, given = stages[0]["init_from"], stages[0].get("licence")
    base_licence = None if base is None else read_licence(find_folder(base))
    lines = ["## Training", ""]
    if base is not None:
        lines.append(f"Fine-tuned from `{base}` (licence: {base_licence or 'unknown'}).")
    lines += ["The licence of the data is not part of this card.", ""]
    lines += ["| stage | steps | trained | data |", "|---|---:|---|---|"]
    lines += [_stage_row(stage, number) for number, stage in enumerate(stages, 1)]
    lines += ["", "## Scores", "", "| measure | step | value |", "|---|---:|---:|"]
    lines += [f"| {text} | {step} | {value:.4g} |" for text, step, value in _scores(stages[-1])]
    return {
        "licence": given or base_licence or "unknown",
        "base_model": None if base is None else str(base),
        "about": "\n".join(lines),
    }


def _stage_row(stage: Mapping[str, Any], number: int) -> str:
    trained = ", ".join(
        f"{part} ({stage['tuning'][part]})" for part in MODULES if stage["tuning"][part] != "frozen"
    )
    data = "; ".join(dict.fromkeys(_described(stage["data"]["train"])))
    held = stage["data"].get("holdout")
    data += "" if held is None else f" without {100 * held:g} % held out"
    return f"| {number} | {_last_step(stage)} | {trained} | {data} |"


def _described(node: Any) -> Iterator[str]:
    """The class and the place of each source of rows; for generated documents only the class."""
    if not isinstance(node, Mapping):
        return
    places = [str(node[name]) for name in _PLACES if node.get(name) is not None]
    inner = [text for value in node.values() for text in _described(value)]
    name = str(node.get("_target_", "")).rpartition(".")[2]
    if places and name:
        yield f"`{', '.join(places)}` ({name})"
    elif inner:
        yield from inner
    elif name:
        yield name


def _metrics(stage: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    file = Path(stage["run_dir"]) / "metrics.csv"
    return read_curves(file) if file.is_file() else {}


def _last_step(stage: Mapping[str, Any]) -> int:
    """Return the number of steps in the metrics of a stage."""
    return max((step for curve in _metrics(stage).values() for step in curve), default=0)


def _scores(stage: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    for name, text in _SCORES.items():
        curve = _metrics(stage).get(name)
        if curve:
            values = list(curve.values())
            tail = values[-max(1, len(values) // 20) :] if name == "train/loss" else values[-1:]
            yield text, max(curve), sum(tail) / len(tail)
