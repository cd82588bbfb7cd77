"""Trainers and modules with only the attributes that a callback reads."""

from typing import Any

import lightning.pytorch as pl
from torch import nn

from hdvl.processor import Batch
from hdvl.training.module import VLMModule


def fake_trainer(**attributes: Any) -> Any:
    """A trainer that has nothing but ``attributes``."""
    return object.__new__(type("FakeTrainer", (pl.Trainer,), attributes))


def fake_module(inner: nn.Module | None = None, **attributes: Any) -> Any:
    """A training module whose parameters are those of ``inner``; a ``vlm`` among ``attributes`` has none."""
    made = object.__new__(VLMModule)
    pl.LightningModule.__init__(made)
    made.inner = nn.Identity() if inner is None else inner
    made.__dict__.update(attributes)
    return made


def fake_batch() -> Batch:
    """A batch that nobody looks into."""
    return object.__new__(Batch)
