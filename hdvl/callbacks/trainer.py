"""Typed access to attributes of the trainer for which Lightning has no types."""

from typing import Protocol, runtime_checkable

import lightning.pytorch as pl

from hdvl.data.conversations import Conversations
from hdvl.data.faults import BadRows
from hdvl.processor import Processor


@runtime_checkable
class TrainingData(Protocol):
    """The data module of a run: its conversations, the number of consumed ones, the processor that makes
    samples of them, and the skipped rows.
    """

    conversations: Conversations
    validation: Conversations | None
    consumed: int
    processor: Processor
    bad: BadRows

    @property
    def per_batch(self) -> int:
        """By how much a batch of one rank increases ``consumed``."""
        ...


def training_data(trainer: pl.Trainer) -> TrainingData:
    """Return the data module of ``trainer``."""
    data: TrainingData = trainer.datamodule  # type: ignore[attr-defined]  # set when a fit begins
    return data


def logs_at(trainer: pl.Trainer, step: int) -> bool:
    """Return whether the numbers of optimizer step ``step`` are logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step % every == 0
