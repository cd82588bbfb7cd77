"""Values of the progress bar, and the lines that are printed without a terminal."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hdvl.callbacks.progress import Progress, StepRecord, learning_rates, part_rates, rates
from tests.callbacks.fakes import fake_batch, fake_module, fake_trainer


def test_rates_are_averages_over_the_window() -> None:
    records = [
        StepRecord(wait=0.5, seconds=1.0, tiles=4, tokens=90, padded_tokens=10),
        StepRecord(wait=0.0, seconds=3.0, tiles=8, tokens=270, padded_tokens=30),
    ]
    assert rates(records) == {
        "tiles_per_second": 3.0,
        "tokens_per_second": 90.0,
        "data_wait_percent": 12.5,
        "padding_percent": 10.0,
    }
    assert rates([])["tokens_per_second"] == 0


def optimizer() -> torch.optim.Optimizer:
    def group(name: str, rate: float) -> dict[str, Any]:
        part = name.split("/")[0]
        return {"params": [nn.Parameter(torch.ones(2))], "name": name, "part": part, "lr": rate}

    return torch.optim.SGD([group("llm", 0.1), group("llm/layer0", 0.05), group("bridge", 0.2)])


def test_learning_rates_of_groups_and_parts() -> None:
    assert learning_rates(optimizer()) == {"llm": 0.1, "llm/layer0": 0.05, "bridge": 0.2}
    assert part_rates(optimizer()) == {"llm": 0.1, "bridge": 0.2}


def test_lines_and_logged_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    logger = SimpleNamespace(log_metrics=lambda numbers, step: logged.append((step, numbers)))
    trainer = fake_trainer(
        strategy=object(),
        global_step=0,
        max_steps=4,
        is_global_zero=True,
        log_every_n_steps=2,
        accumulate_grad_batches=2,
        loggers=[logger],
    )
    numbers = {"tiles": 5.0, "tokens": 75.0, "padded_tokens": 25.0}
    layer = nn.Linear(1, 2, bias=False)
    module = fake_module(layer, step_numbers=numbers, step_loss=torch.tensor(0.5))
    layer.weight.grad = torch.tensor([[3.0], [4.0]])
    progress, groups = Progress(interval=0), optimizer()
    progress.on_train_start(trainer, module)
    for batch in range(8):  # two batches a step
        progress.on_train_batch_start(trainer, module, fake_batch(), batch)
        if batch % 2:
            layer.weight.grad = torch.tensor([[3.0], [4.0]]) * (2 - trainer.global_step % 2)
            progress.on_before_optimizer_step(trainer, module, groups)
            trainer.global_step += 1
        progress.on_train_batch_end(
            trainer, module, {"loss": torch.tensor(0.25)}, fake_batch(), batch
        )
        progress.on_validation_end(trainer, module)
    progress.on_train_end(trainer, module)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(
        r"step 4/4  loss 0\.5000  lr llm 1\.0e-1 bridge 2\.0e-1  "
        r"[\d.]+ tiles/s  \d+ tok/s  wait \d+%  \|g\| 5\.00  pad 25%  0:00 left",
        lines[-1],
    )
    assert [step for step, _ in logged] == [1, 3]
    assert logged[0][1]["train/gradient_norm"] == 7.5, "the mean of 10 and 5"
    assert logged[0][1]["lr/llm/layer0"] == 0.05
    assert logged[0][1]["speed/padding_percent"] == 25.0


def test_lines_are_at_least_an_interval_apart(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(interval=1e9)
    progress._last_line = 1e12
    trainer = fake_trainer(
        strategy=object(),
        global_step=0,
        max_steps=9,
        is_global_zero=True,
        log_every_n_steps=50,
        accumulate_grad_batches=1,
        loggers=[],
    )
    module = fake_module(step_numbers={"tiles": 1.0, "tokens": 1.0, "padded_tokens": 0.0})
    progress.on_train_start(trainer, module)
    trainer.global_step = 1
    progress.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)}, fake_batch(), 0)
    progress.on_exception(trainer, module, KeyboardInterrupt())
    assert capsys.readouterr().out == ""


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="interval must be at least 0 and window at least 1, got"):
        Progress(window=0)


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_of_a_terminal_fits_its_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    trainer = fake_trainer(
        strategy=object(),
        global_step=0,
        max_steps=2,
        is_global_zero=True,
        log_every_n_steps=50,
        accumulate_grad_batches=1,
        loggers=[],
    )
    numbers = {"tiles": 5.0, "tokens": 75.0, "padded_tokens": 25.0}
    module = fake_module(step_numbers=numbers, step_loss=torch.tensor(0.5))
    progress = Progress()
    progress.on_train_start(trainer, module)
    progress.on_before_optimizer_step(trainer, module, optimizer())
    trainer.global_step = 2
    progress.on_train_batch_end(trainer, module, None, fake_batch(), 0)
    progress.on_train_end(trainer, module)
    drawn = re.split(r"[\r\n]|\x1b\[A", terminal.getvalue())
    assert max(map(len, drawn)) <= width
    assert any(line.startswith("2/2 100%|") and "loss 0.5000  0:00 left" in line for line in drawn)
    speeds = next(line for line in drawn if "tiles/s" in line)
    assert "lr llm 1.0e-1 bridge 2.0e-1" in speeds and "tok/s" in speeds and "wait" in speeds
