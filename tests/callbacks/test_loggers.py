"""Loggers by name, and the reason where Weights & Biases is not installed."""

import sys
from pathlib import Path

import pytest

from hdvl.callbacks.loggers import wandb
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
