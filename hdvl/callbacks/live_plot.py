"""A plot of the losses in a notebook that is drawn again while the model trains."""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import STEP_OUTPUT

from hdvl.callbacks.plots import loss_figure
from hdvl.processor import Batch
from hdvl.training.curves import read_curves
from hdvl.training.module import VLMModule


class LivePlot(pl.Callback):
    """Shows the losses of ``folder/metrics.csv`` below the cell that trains.

    Needs IPython and matplotlib (``pip install 'hdvl[notebooks]'``).

    Args:
        folder: the run folder.
        interval: seconds between two drawings.
    """

    def __init__(self, *, folder: str, interval: float = 2.0) -> None:
        self.path, self.interval = Path(folder) / "metrics.csv", interval
        self._display = f"hdvl-losses-{id(self)}"
        self._shown, self._drawn = False, 0.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Draw again if the interval has passed."""
        if time.monotonic() - self._drawn >= self.interval:
            self._draw(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Draw the whole curve."""
        self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or not self.path.is_file():
            return
        from IPython.display import Image, display, update_display

        drawn = BytesIO()
        loss_figure(read_curves(self.path)).savefig(drawn, format="png", dpi=80)
        show: Callable[..., Any] = update_display if self._shown else display
        image: Callable[..., Any] = Image
        show(image(data=drawn.getvalue()), display_id=self._display)
        self._shown, self._drawn = True, time.monotonic()
