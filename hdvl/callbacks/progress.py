"""Shows the progress of a training: steps, time left, loss, learning rates, speed and waiting for data."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm  # type: ignore[import-untyped]

from hdvl.callbacks.terminal import columns, print_line, wrap_fields
from hdvl.callbacks.trainer import logs_at
from hdvl.processor import Batch
from hdvl.tables import duration
from hdvl.training.deepspeed import hidden_norm, hides_norm
from hdvl.training.module import VLMModule
from hdvl.training.sharding import full_tensor
from hdvl.training.step_loss import RowMean


@dataclass(frozen=True)
class StepRecord:
    """One batch: seconds waited for it, seconds in total, and its content."""

    wait: float
    seconds: float
    tiles: float
    tokens: float
    padded_tokens: float


def rates(records: Iterable[StepRecord]) -> dict[str, float]:
    """Return tiles and tokens per second, and the percentages of waiting for data and of padding."""
    records = list(records)
    seconds = sum(record.seconds for record in records) or 1e-9
    tokens = sum(record.tokens for record in records)
    padded = sum(record.padded_tokens for record in records)
    return {
        "tiles_per_second": sum(record.tiles for record in records) / seconds,
        "tokens_per_second": tokens / seconds,
        "data_wait_percent": 100 * sum(record.wait for record in records) / seconds,
        "padding_percent": 100 * padded / max(1.0, tokens + padded),
    }


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the present learning rate of every group by its name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def part_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the highest present learning rate of each part."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        found[group["part"]] = max(found.get(group["part"], 0.0), float(group["lr"]))
    return found


def gradient_norm(module: nn.Module) -> Tensor:
    """Return the norm of all gradients over all ranks; 0 without gradients."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return full_tensor(torch.nn.utils.get_total_norm(gradients))


class Progress(pl.Callback):
    """Shows a bar above a line of numbers on a terminal, and prints a line now and then elsewhere.

    The loggers get the same numbers. Speeds are those of this rank. The callback reads ``step_numbers``
    (tiles, tokens, padded_tokens) and ``step_loss`` of the LightningModule.
    The gradient norm is that before clipping; the logged one is the mean over the steps since the last
    logged one.

    Args:
        interval: seconds between two lines where there is no terminal.
        window: batches over which speeds are averaged.
    """

    def __init__(self, *, interval: float = 30.0, window: int = 20) -> None:
        if interval < 0 or window < 1:
            raise ValueError(
                f"interval must be at least 0 and window at least 1, got {interval} and {window}"
            )
        self.interval = interval
        self.records: deque[StepRecord] = deque(maxlen=window)
        self.norm: Tensor = torch.zeros(())
        self.mean_norm: Tensor = torch.zeros(())
        self._row_norm = RowMean()
        self.all_rates: dict[str, float] = {}
        self.shown_rates: dict[str, float] = {}
        self._bar: Any = None
        self._status: list[Any] = []
        self._active = False
        self._step = 0
        self._fetch_started = self._step_started = self._last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Open the bar at the step that a resumed run starts from."""
        self.records.clear()
        self._step = trainer.global_step
        self._fetch_started = time.perf_counter()
        self._active = bool(trainer.is_global_zero)
        if self._active and sys.stderr.isatty():
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                dynamic_ncols=True,
                bar_format="{n_fmt}/{total_fmt} {percentage:3.0f}%|{bar}| {desc}",
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note the end of the wait for data."""
        self._step_started = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: VLMModule, optimizer: Optimizer
    ) -> None:
        """Note gradient norm and learning rates of the coming step."""
        self.norm = gradient_norm(pl_module)
        if not hides_norm(trainer):
            self._add_norm(trainer, trainer.global_step)
        self.all_rates, self.shown_rates = learning_rates(optimizer), part_rates(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch, log every ``log_every_n_steps`` steps, and update the display."""
        now = time.perf_counter()
        numbers: Mapping[str, float] = pl_module.step_numbers
        self.records.append(
            StepRecord(
                wait=self._step_started - self._fetch_started,
                seconds=now - self._fetch_started,
                tiles=numbers["tiles"],
                tokens=numbers["tokens"],
                padded_tokens=numbers["padded_tokens"],
            )
        )
        stepped, self._step = trainer.global_step - self._step, trainer.global_step
        if stepped:
            hidden = hidden_norm(trainer)
            if hidden is not None:
                self.norm = hidden
                self._add_norm(trainer, trainer.global_step - 1)
            self._log(trainer)
            self._show(trainer, pl_module, now, stepped)
        self._fetch_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Do not count the validation as waiting for data."""
        self._fetch_started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the gradient norms since the last row of the metrics."""
        return self._row_norm.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the gradient norms since the last row."""
        self._row_norm.restore(state_dict)

    def on_train_end(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: VLMModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message starts on a line of its own."""
        self._close()

    def _close(self) -> None:
        for bar in (*reversed(self._status), self._bar):
            if bar is not None:
                bar.close()
        self._bar, self._status, self._active = None, [], False

    def _add_norm(self, trainer: pl.Trainer, step: int) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.mean_norm = self._row_norm.add(self.norm, step=step, every=every)

    def _log(self, trainer: pl.Trainer) -> None:
        if not logs_at(trainer, trainer.global_step):
            return
        numbers = {f"speed/{name}": value for name, value in rates(self.records).items()}
        numbers |= {f"lr/{name}": value for name, value in self.all_rates.items()}
        numbers["train/gradient_norm"] = float(self.mean_norm)
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step - 1)

    def _show(self, trainer: pl.Trainer, pl_module: VLMModule, now: float, stepped: int) -> None:
        if not self._active:
            return
        if self._bar is not None:
            self._bar.n += stepped
        interval = self.interval if self._bar is None else 0.2
        last = trainer.global_step == trainer.max_steps
        # Reading the loss waits for the device, so it is read only when it is shown.
        if now - self._last_line < interval and not last:
            return
        self._last_line = now
        steps = trainer.max_steps - trainer.global_step
        left = duration(steps * step_seconds(self.records, trainer.accumulate_grad_batches))
        loss, (fields, optional) = f"loss {float(pl_module.step_loss):.4f}", self._fields()
        if self._bar is None:
            text = "  ".join([loss, *fields, *optional])
            print_line(f"step {trainer.global_step}/{trainer.max_steps}  {text}  {left} left")
        else:
            self._draw(f"{loss}  {left} left", wrap_fields(fields, columns() - 1, optional))

    def _draw(self, text: str, lines: Sequence[str]) -> None:
        """Draw the bar, and the other numbers on lines below it."""
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()
        while len(self._status) < len(lines):
            place = len(self._status) + 1
            self._status.append(tqdm(total=0, position=place, bar_format="{desc}", leave=False))
        for number, status in enumerate(self._status):
            status.set_description_str(lines[number] if number < len(lines) else "")

    def _fields(self) -> tuple[list[str], list[str]]:
        """The fields that are always shown, and those that are shown if there is room."""
        speed = rates(self.records)
        always = [
            rates_text(self.shown_rates),
            f"{speed['tiles_per_second']:.1f} tiles/s",
            f"{speed['tokens_per_second']:.0f} tok/s",
            f"wait {speed['data_wait_percent']:.0f}%",
        ]
        return always, [f"|g| {float(self.norm):.2f}", f"pad {speed['padding_percent']:.0f}%"]


def step_seconds(records: Iterable[StepRecord], accumulate: int) -> float:
    """Seconds of an optimizer step of ``accumulate`` batches; 0 without any record."""
    seconds = [record.seconds for record in records]
    return accumulate * sum(seconds) / len(seconds) if seconds else 0.0


def rates_text(part_rates: Mapping[str, float]) -> str:
    """The learning rates of parts, those that are equal once.

    >>> rates_text({"bridge": 1e-3, "merger": 1e-3, "llm": 2e-4}), rates_text({"llm": 2e-4})
    ('lr bridge, merger 1.0e-3 llm 2.0e-4', 'lr 2.0e-4')
    """
    parts: dict[str, list[str]] = {}
    for part, rate in part_rates.items():
        mantissa, exponent = f"{rate:.1e}".split("e")
        parts.setdefault(f"{mantissa}e{int(exponent)}", []).append(part)
    if len(parts) < 2:
        return f"lr {next(iter(parts), '-')}"
    return "lr " + " ".join(f"{', '.join(names)} {rate}" for rate, names in parts.items())
