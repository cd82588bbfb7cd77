"""Loggers by name, and the reason where Weights & Biases is not installed."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hdvl.callbacks.loggers import (
    TensorBoard,
    WeightsAndBiases,
    show_image,
    show_table,
    wandb,
)
from hdvl.config import build, compose
from hdvl.training.metrics import MetricsFile


@pytest.mark.slow
def test_loggers_are_chosen_by_name(tmp_path: Path) -> None:
    names = {"default": 2, "wandb": 3}
    for name, count in names.items():
        config = compose(f"logger={name}", f"run_dir={tmp_path}")
        assert len(config.trainer.logger) == count
        assert config.trainer.logger[1].folder == str(tmp_path)
    (only,) = build(compose("~logger.tensorboard", f"run_dir={tmp_path}").trainer.logger)
    assert isinstance(only, MetricsFile)


def test_wandb_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"needs the package wandb, .*pip install 'hdvl\[wandb\]'"):
        wandb(folder=str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_tensorboard_counts_steps_from_one(tmp_path: Path) -> None:
    """As the terminal does; images and texts are given the number of steps that were made."""
    logger = TensorBoard(save_dir=str(tmp_path), name="", version="")
    for step in (0, 1):
        logger.log_metrics({"train/loss": 2.0 - step}, step=step)
    show_table([logger], "answers", ("row",), [("a",)], 2)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2), (2, 1)]
    assert [event.step for event in events.Tensors("answers/text_summary")] == [2]


def test_weights_and_biases_counts_steps_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, int | None]] = []
    monkeypatch.setattr(
        WandbLogger, "log_metrics", lambda self, metrics, step: logged.append((*metrics, step))
    )
    monkeypatch.setattr(
        WandbLogger, "log_image", lambda self, key, images, step: self.log_metrics({key: 0}, step)
    )
    logger = WeightsAndBiases.__new__(WeightsAndBiases)
    logger.log_metrics({"train/loss": 1.0}, step=4)
    show_image([logger], "first_batch", Image.new("L", (2, 2)), 5)
    assert logged == [("train/loss", 5), ("first_batch", 5)]
