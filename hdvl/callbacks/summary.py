"""Prints where the files of a run are, what it is trained on, and the result of each validation."""

from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from hdvl.callbacks.plots import Plots
from hdvl.callbacks.terminal import print_line
from hdvl.callbacks.trainer import training_data
from hdvl.training.module import VLMModule


class Summary(pl.Callback):
    """Prints the files and the data of a run before its first step, and the result of each validation.

    Args:
        folder: the run folder.
    """

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self._best: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Print where to look."""
        if trainer.is_global_zero:
            print_line("\n".join(self._lines(trainer)))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Print the validation loss next to the best one, and the share of right answers.

        An answer is right here if each of its tokens is the most likely one after those before it.
        """
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        loss = float(metrics["validation/loss"])
        right = 100 * float(metrics["validation/answers"])
        compared = "" if self._best is None else f" (best before: {self._best:.4f})"
        self._best = loss if self._best is None else min(loss, self._best)
        print_line(
            f"step {trainer.global_step}: validation loss {loss:.4f}{compared}, {right:.0f}% of answers "
            "right"
        )

    def _lines(self, trainer: pl.Trainer) -> list[str]:
        data = training_data(trainer)
        validation = 0 if data.validation is None else len(data.validation)
        held = f"{validation:,} to validate on" if validation else "none to validate on"
        lines = [
            f"run        {self.folder}",
            f"data       {len(data.conversations):,} conversations to train on, {held}",
            f"look at    {self.folder / 'first_batch.html'}  the first batch as the model gets it",
        ]
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        draws = any(isinstance(callback, Plots) for callback in callbacks)
        if draws and 0 <= trainer.max_steps < every:
            lines.append(
                f"           no losses.png: this training has {trainer.max_steps} steps, fewer than "
                f"trainer.log_every_n_steps={every}"
            )
        elif draws and find_spec("matplotlib") is None:
            lines.append("           no losses.png without matplotlib: pip install 'hdvl[plots]'")
        elif draws:
            lines.append(f"           {self.folder / 'losses.png'}  when the training ends")
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            lines.append(f"           tensorboard --logdir {self.folder}")
        return [*lines, "stop       Ctrl-C saves and prints how to go on"]
