"""Detects losses that are not finite, and sudden increases of the loss, before the weights change."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from hdvl.callbacks.dump import finite, row_names, save_batches
from hdvl.callbacks.progress import gradient_norm
from hdvl.callbacks.terminal import print_line
from hdvl.callbacks.trainer import training_data
from hdvl.processor import Batch
from hdvl.training.deepspeed import hidden_norm
from hdvl.training.module import VLMModule

OnSpike = Literal["continue", "skip", "stop"]
NAMED = 20


class BadStep(RuntimeError):
    """Raised instead of making a step. The message gives the reason, the rows, and where the batch is."""


class Guard(pl.Callback):
    """Stops a run whose loss or gradient is not finite, and reports, skips or stops at a spike of the loss.

    The batches of the step are written to ``folder/bad_steps`` (see :mod:`hdvl.callbacks.dump`), by
    each rank its own, and their rows are named. The weights are still those before the step. DeepSpeed
    hides gradients, so that a gradient that is not finite is found after the step, but before it is
    saved.

    A spike is a loss that exceeds the median of the last ``window`` losses by more than ``spike`` times
    their spread. The spread is 1.4826 times the median absolute deviation, but at least 5 % of the
    median. Spikes are not included in later medians. Before half a window of losses is known, nothing
    is a spike.

    Reading the loss before each step waits for the device.

    Args:
        folder: the run folder.
        on_spike: ``continue`` makes the step, ``skip`` omits it, ``stop`` ends the run.
        spike: how many times the spread a loss may be above the median.
        window: number of previous losses.
        dumps: maximum number of spikes whose batches are written; all are printed.
    """

    def __init__(
        self,
        *,
        folder: str,
        on_spike: OnSpike = "continue",
        spike: float = 20.0,
        window: int = 100,
        dumps: int = 3,
    ) -> None:
        if on_spike not in get_args(OnSpike):
            raise ValueError(f"on_spike must be continue, skip or stop, got {on_spike!r}")
        if spike <= 0 or window < 2 or dumps < 0:
            raise ValueError(
                f"spike must be above 0, window at least 2 and dumps at least 0, got {spike}, "
                f"{window} and {dumps}"
            )
        self.folder, self.on_spike = Path(folder) / "bad_steps", on_spike
        self.spike, self.dumps = spike, dumps
        self.losses: deque[float] = deque(maxlen=window)
        self.spikes = 0
        self._batches: list[Batch] = []
        self._stepped: list[Batch] = []
        self._step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: VLMModule) -> None:
        """Refuse ``skip`` with a strategy that hides the gradients."""
        if self.on_spike == "skip" and isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "callbacks.guard.on_spike must be continue or stop with trainer=deepspeed, which hides "
                "the gradients that skip leaves out"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: VLMModule, batch: Batch, batch_idx: int
    ) -> None:
        """Collect the batches of a step."""
        self._batches.append(batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: VLMModule, optimizer: Optimizer
    ) -> None:
        """Check the loss and the gradients; all ranks see the same loss and decide alike."""
        batches, self._batches = self._batches, []
        self._step, self._stepped = trainer.global_step + 1, batches
        loss = float(pl_module.step_loss)
        wrong = self._not_finite(trainer, pl_module, loss)
        if wrong:
            place = self._dump(trainer, pl_module, batches, wrong)
            raise BadStep(self._text(trainer, batches, wrong, place))
        limit = self.limit()
        if limit is None or loss <= limit:
            self.losses.append(loss)
            return
        self.spikes += 1
        reason = f"the loss is {loss:.4g}, above {limit:.4g}"
        write = self.spikes <= self.dumps
        kept = self._dump(trainer, pl_module, batches, reason) if write else None
        text = self._text(trainer, batches, reason, kept)
        if self.on_spike == "stop":
            raise BadStep(text)
        if self.on_spike == "skip":
            # Without gradients the optimizer changes neither weights nor its state.
            optimizer.zero_grad(set_to_none=True)
        if trainer.is_global_zero:
            done = "left out" if self.on_spike == "skip" else "made all the same"
            print_line(f"{text}; the step is {done}")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: VLMModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Check gradients that were hidden before the step."""
        norm = hidden_norm(trainer)
        if norm is None or finite(norm) or str(trainer.precision).startswith("16"):
            return  # fp16: as in :meth:`_not_finite`
        wrong = _wrong_norm(float(pl_module.step_loss), norm)
        place = self._dump(trainer, pl_module, self._stepped, wrong)
        raise BadStep(self._text(trainer, self._stepped, wrong, place))

    def limit(self) -> float | None:
        """Return the loss above which the next one is a spike, or None while too few losses are known."""
        if 2 * len(self.losses) < (self.losses.maxlen or 0):
            return None
        middle = median(self.losses)
        spread = 1.4826 * median(abs(loss - middle) for loss in self.losses)
        return middle + self.spike * max(spread, abs(middle) / 20)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, so that a resumed run decides as an uninterrupted one."""
        return {"losses": list(self.losses), "spikes": self.spikes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.losses.extend(state_dict["losses"])
        self.spikes = state_dict["spikes"]

    def _not_finite(self, trainer: pl.Trainer, pl_module: VLMModule, loss: float) -> str | None:
        if not finite(pl_module.step_loss):
            return f"the loss is {loss}"
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return None  # fp16: the gradient scaler skips steps with infinite gradients
        norm = gradient_norm(pl_module)
        return None if finite(norm) else _wrong_norm(loss, norm)

    def _dump(
        self, trainer: pl.Trainer, pl_module: VLMModule, batches: Sequence[Batch], reason: str
    ) -> Path:
        folder = self.folder / f"step-{self._step:06d}-rank{trainer.global_rank}"
        source = training_data(trainer).conversations
        return save_batches(folder, batches, vlm=pl_module.vlm, source=source, reason=reason)

    def _text(
        self, trainer: pl.Trainer, batches: Sequence[Batch], reason: str, place: Path | None
    ) -> str:
        source = training_data(trainer).conversations
        names = [name for batch in batches for name in row_names(batch, source)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        where = "" if place is None else f"; the batch is in {place}"
        return f"step {self._step}: {reason}; rows: {', '.join(names[:NAMED])}{more}{where}"


def _wrong_norm(loss: float, norm: Tensor) -> str:
    return f"the loss is {loss:.4g}, but the gradient's norm {float(norm)}"
