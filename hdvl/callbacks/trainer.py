"""What callbacks read of a trainer, with types that Lightning does not give: both are set late."""

from typing import Protocol, runtime_checkable

import lightning.pytorch as pl

from hdvl.data.conversations import Conversations
from hdvl.data.faults import BadRows
from hdvl.processor import Processor


@runtime_checkable
class TrainingData(Protocol):
    """The data module of a run: its conversations, how many of them were consumed, what makes
    samples of them, and which rows were left out."""

    conversations: Conversations
    validation: Conversations | None
    consumed: int
    processor: Processor
    bad: BadRows

    @property
    def per_batch(self) -> int:
        """By how much a batch of one rank moves ``consumed``."""
        ...


def training_data(trainer: pl.Trainer) -> TrainingData:
    """The data module that ``trainer`` was given."""
    data: TrainingData = trainer.datamodule  # type: ignore[attr-defined]  # set when a fit begins
    return data


def logs_at(trainer: pl.Trainer, step: int) -> bool:
    """Whether the numbers of optimizer step ``step`` are logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step % every == 0
