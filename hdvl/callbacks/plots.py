"""Draws losses and learning rates as images in the run folder."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from hdvl.files import atomic_write
from hdvl.training.curves import Curve, read_curves
from hdvl.training.module import VLMModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("losses.png", "rates.png")


class Plots(pl.Callback):
    """Draws ``losses.png`` and ``rates.png`` from ``folder/metrics.csv`` when training ends or fails.

    Needs matplotlib (``pip install 'hdvl[plots]'``). Without it a message is printed, and nothing is drawn.
    """

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """The end of the stage, also after Ctrl-C."""
        self._draw(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: VLMModule, exception: BaseException
    ) -> None:
        """Draw what was logged before the failure."""
        self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or not (self.folder / "metrics.csv").exists():
            return
        if find_spec("matplotlib") is None:
            print("no plots: matplotlib is missing; pip install 'hdvl[plots]'", flush=True)
            return
        draw_run(self.folder)


def draw_run(folder: Path) -> list[Path]:
    """Draw what ``folder/metrics.csv`` holds; returns the files."""
    curves = read_curves(folder / "metrics.csv")
    written = []
    for file, title, chosen in zip(
        FILES, ("loss", "learning rate"), (losses(curves), highest_rates(curves)), strict=True
    ):
        if chosen:
            with atomic_write(folder / file) as part:
                _figure(title, chosen).savefig(part, format="png", dpi=110)
            written.append(folder / file)
    return written


def loss_figure(curves: Mapping[str, Curve]) -> "Figure":
    """A matplotlib figure of the losses among ``curves``."""
    return _figure("loss", losses(curves))


def losses(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves that are losses."""
    return {name: curve for name, curve in curves.items() if name.endswith("/loss")}


def highest_rates(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The highest learning rate of each part at each step. A part may have a group for every layer."""
    parts: dict[str, Curve] = {}
    for name, curve in curves.items():
        if name.startswith("lr/"):
            part = parts.setdefault(name.split("/")[1], {})
            for step, rate in curve.items():
                part[step] = max(rate, part.get(step, 0.0))
    return parts


def smoothed(curve: Curve) -> Curve:
    """The running median of a curve over a twentieth of its values."""
    width, values = max(1, len(curve) // 20), list(curve.values())
    return {
        step: median(values[max(0, place + 1 - width) : place + 1])
        for place, step in enumerate(curve)
    }


def _figure(title: str, curves: Mapping[str, Curve]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        if name == "train/loss":
            axes.plot(list(curve), list(curve.values()), color="0.8", linewidth=0.8)
            curve = smoothed(curve)
        marker = "o" if name.startswith("validation/") or len(curve) == 1 else None
        axes.plot(list(curve), list(curve.values()), label=name, marker=marker, markersize=4)
    axes.set(xlabel="step", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    return figure
