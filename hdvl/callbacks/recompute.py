"""Activation checkpointing while a model trains."""

from collections.abc import Sequence

import lightning.pytorch as pl
from torch import nn

from hdvl.training.module import VLMModule
from hdvl.training.recompute import keep, recompute


class Recompute(pl.Callback):
    """Recomputes the blocks of ``parts`` (encoder, llm) during training; the numbers are the same."""

    def __init__(self, *, parts: Sequence[str] = ()) -> None:
        self.parts = tuple(parts)
        self._blocks: list[nn.Module] = []

    def setup(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Wrap the blocks before the model is compiled or sharded."""
        self._blocks = recompute(pl_module.vlm, self.parts)

    def teardown(self, trainer: pl.Trainer, pl_module: VLMModule, stage: str) -> None:
        """Restore the blocks."""
        keep(self._blocks)
        self._blocks = []
