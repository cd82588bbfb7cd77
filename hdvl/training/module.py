"""One training step, and what Lightning needs to know about it."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from hdvl.model import IGNORED, VLM
from hdvl.processor import Batch
from hdvl.training.groups import build_optimizer, parameter_groups
from hdvl.training.schedule import build_scheduler
from hdvl.training.tuning import set_modes


class VLMModule(pl.LightningModule):
    """Trains a VLM whose tuning was applied before (``apply_tuning``).

    ``step_numbers`` holds what the last step saw: tiles, tokens, padded_tokens, supervised_tokens.
    """

    vlm: VLM

    def __init__(
        self, vlm: VLM, *, optimizer: Mapping[str, Any], tuning: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.vlm, self.optimizer_config, self.tuning = vlm, optimizer, tuning
        self.step_numbers: dict[str, float] = {}

    def train(self, mode: bool = True) -> "VLMModule":
        """Train mode, but frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            set_modes(self.vlm, self.tuning)
        return self

    def training_step(self, batch: Batch, batch_index: int) -> Float[Tensor, ""]:
        """The loss of one batch, padded on the right."""
        self.step_numbers = batch_numbers(batch)
        # Padding stands on the right, where no position looks: no mask, and the causal kernel runs.
        output = self.vlm(batch.input_ids, batch.pixels, batch.plans, None, batch.labels)
        assert output.loss is not None
        loss: Tensor = output.loss
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Loss, and the share of answers whose every token is right given the tokens before it."""
        output = self.vlm(batch.input_ids, batch.pixels, batch.plans, None, batch.labels)
        hits = answer_hits(output.logits, batch.labels)
        size = len(batch.input_ids)
        assert output.loss is not None
        self.log("validation/loss", output.loss, batch_size=size, sync_dist=True)
        self.log("validation/answers", hits.float().mean(), batch_size=len(hits), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer whose groups carry their own rates, and one scheduler step a step."""
        config = self.optimizer_config
        groups = parameter_groups(self.vlm, config["groups"], config["common"])
        optimizer = build_optimizer(config, groups)
        scheduler = build_scheduler(
            optimizer,
            total_steps=int(self.trainer.estimated_stepping_batches),
            shape=config["shape"],
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Pixels travel as uint8."""
        return batch.to(device)


def batch_numbers(batch: Batch) -> dict[str, float]:
    """What a batch holds: tiles, tokens, padded_tokens, supervised_tokens."""
    real = int(batch.attention_mask.sum())
    return {
        "tiles": float(batch.pixels.shape[0]),
        "tokens": float(real),
        "padded_tokens": float(batch.attention_mask.numel() - real),
        "supervised_tokens": float((batch.labels != IGNORED).sum()),
    }


def answer_hits(logits: Float[Tensor, "b s v"], labels: Tensor) -> Tensor:
    """For each run of supervised positions (one answer), whether every token is predicted."""
    wanted = labels[:, 1:]
    said = wanted != IGNORED
    wrong = said & (logits[:, :-1].argmax(-1) != wanted)
    starts = said & ~torch.nn.functional.pad(said, (1, 0))[:, :-1]
    # Answers are numbered in reading order over the batch; a wrong token fails its answer.
    number = starts.flatten().cumsum(0) - 1
    failed = torch.zeros(int(starts.sum()), device=labels.device)
    failed.index_add_(0, number[said.flatten()], wrong[said].float())
    return failed == 0
