"""TensorBoard and Weights & Biases with steps counted from 1, and images and texts for them.

Lightning numbers optimizer steps from 0. The terminal, ``metrics.csv`` and the plots count them from 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from hdvl.files import write_text
from hdvl.training.ranks import is_rank_zero


class TensorBoard(TensorBoardLogger):
    """Lightning's logger for TensorBoard, with steps counted from 1."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log ``metrics`` of the step that Lightning numbers ``step``."""
        super().log_metrics(metrics, None if step is None else step + 1)


class WeightsAndBiases(WandbLogger):
    """Lightning's logger for Weights & Biases, with steps counted from 1."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log ``metrics``, also images and tables, of the step that Lightning numbers ``step``."""
        super().log_metrics(metrics, None if step is None else step + 1)


def show_image(loggers: Sequence[Any], name: str, image: Image.Image, step: int) -> None:
    """Pass an image to TensorBoard and Weights & Biases; other loggers only take numbers.

    ``step`` is the number of steps that were made.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(image.convert("RGB"))
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step - 1)


def show_table(
    loggers: Sequence[Any], name: str, head: Sequence[str], rows: Sequence[Sequence[str]], step: int
) -> None:
    """Pass a table of texts to TensorBoard and Weights & Biases after ``step`` steps."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            lines = [head, ["---"] * len(head), *rows]
            cells = [[_cell(text) for text in line] for line in lines]
            logger.experiment.add_text(name, "\n".join("|".join(line) for line in cells), step)
        elif isinstance(logger, WandbLogger):
            cells = [list(row) for row in rows]
            logger.log_table(name, columns=list(head), data=cells, step=step - 1)


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def wandb(
    *,
    folder: str,
    project: str = "hdvl",
    name: str | None = None,
    mode: Literal["online", "offline"] = "online",
    id: str | None = None,
    **options: Any,
) -> WandbLogger:
    """Return a logger for Weights & Biases. A resumed run continues there, by the id in ``folder/wandb_id``.

    Args:
        folder: the folder of the stage.
        project: the project that lists the run.
        name: the name of the run; None is that of the folder.
        mode: ``offline`` keeps everything in the folder, for ``wandb sync``.
        id: the run to continue; None is this run's own.
        **options: options of Lightning's ``WandbLogger``.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import wandb as _  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "logger=wandb needs the package wandb, which is not installed; pip install 'hdvl[wandb]'"
        ) from error
    place = Path(folder)
    if is_rank_zero():
        place.mkdir(parents=True, exist_ok=True)
    return WeightsAndBiases(
        project=project,
        name=place.name if name is None else name,
        save_dir=folder,
        offline=mode == "offline",
        id=_kept_id(place / "wandb_id") if id is None else id,
        resume="allow",
        log_model=False,
        **options,
    )


def _kept_id(file: Path) -> str:
    if not file.exists() and is_rank_zero():
        write_text(file, uuid4().hex[:12])
    return file.read_text() if file.exists() else ""
