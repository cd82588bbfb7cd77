"""What a run prints before its first step and after each validation, on a terminal of 80 columns."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hdvl.callbacks.answers import answer_line
from hdvl.callbacks.plots import Plots
from hdvl.callbacks.progress import Progress, StepRecord
from hdvl.callbacks.summary import Summary
from hdvl.callbacks.terminal import columns, wrap_fields
from tests.callbacks.fakes import fake_module, fake_trainer


def trainer(**attributes: Any) -> Any:
    metrics = {"validation/loss": torch.tensor(0.5), "validation/answers": torch.tensor(0.75)}
    data = SimpleNamespace(
        conversations=range(1200),
        validation=range(4),
        consumed=0,
        processor=None,
        bad=None,
        per_batch=1,
    )
    common = {
        "is_global_zero": True,
        "sanity_checking": False,
        "callback_metrics": metrics,
        "datamodule": data,
        "loggers": [],
        "global_step": 18,
        "max_steps": 100,
        "log_every_n_steps": 50,
        "callbacks": [Plots(folder="runs/mine")],
    }
    return fake_trainer(**{**common, **attributes})


def test_files_and_data_are_named_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    Summary(folder="runs/mine").on_train_start(trainer(), fake_module())
    said = capsys.readouterr().out
    assert "1,200 conversations to train on, 4 to validate on" in said
    for name in ("first_batch.html", "losses.png"):
        assert str(Path("runs/mine") / name) in said
    assert "tensorboard" not in said  # without such a logger
    assert max(map(len, said.splitlines())) <= 80


def test_plots_are_announced_only_if_they_will_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = Summary(folder="runs/mine")
    summary.on_train_start(trainer(max_steps=8), fake_module())
    said = capsys.readouterr().out
    assert "no losses.png: this training has 8 steps, fewer than trainer.log_every" in said
    summary.on_train_start(trainer(callbacks=[]), fake_module())
    assert "losses.png" not in capsys.readouterr().out
    monkeypatch.setattr("hdvl.callbacks.summary.find_spec", lambda name: None)
    summary.on_train_start(trainer(), fake_module())
    assert "no losses.png without matplotlib: pip install 'hdvl[plots]'" in capsys.readouterr().out


def test_a_validation_is_one_line_with_the_best_before(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(folder="runs/mine")
    summary.on_validation_end(trainer(), fake_module())
    summary.on_validation_end(trainer(), fake_module())
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 18: validation loss 0.5000, 75% of answers right"
    assert "0.5000 (best before: 0.5000)" in second and len(second) <= 80


def test_answers_fit_on_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert columns() == 80
    line = answer_line(["row 1", "<image>\nWhat is it?", "12.50", "12.5"])
    assert line == "  What is it?  -> '12.50'  expected '12.5'"
    long = answer_line(["row 1", "Why? " * 40, "Because " * 40, "so " * 40])
    assert len(long) <= 80 and "…" in long


@pytest.mark.parametrize("width", [80, 120])
def test_four_different_rates_and_all_speeds_fit(width: int) -> None:
    progress = Progress()
    progress.records.append(
        StepRecord(wait=0.1, seconds=1.0, tiles=480.0, tokens=123456.0, padded_tokens=0.0)
    )
    parts = ("encoder", "bridge", "merger", "llm")
    progress.shown_rates = {part: 1e-3 / (n + 1) for n, part in enumerate(parts)}
    fields, optional = progress._fields()
    lines = wrap_fields(fields, width - 1, optional)
    assert all(len(line) < width for line in lines) and len(lines) <= 2
    shown = "  ".join(lines)
    for text in ("encoder 1.0e-3", "llm 2.5e-4", "480.0 tiles/s", "123456 tok/s", "wait 10%"):
        assert text in shown
