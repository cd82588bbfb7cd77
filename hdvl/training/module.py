"""The LightningModule that trains a VLM."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hdvl.loss import (
    IGNORED,
    WEIGHTINGS,
    Weighting,
    check_first_token_weight,
)
from hdvl.model import VLM
from hdvl.precision import frequencies, put_back
from hdvl.processor import Batch
from hdvl.protocols import FeatureCache
from hdvl.training.frozen import Source
from hdvl.training.groups import build_optimizer, parameter_groups
from hdvl.training.saved import KEPT, Validated, validate
from hdvl.training.schedule import build_scheduler, follow, present_options
from hdvl.training.sharding import gather, shard
from hdvl.training.step_loss import RowMean, StepLoss, batch_loss
from hdvl.training.tuning import set_modes
from hdvl.views import view_count

ROW_LOSS = "row_loss"


@runtime_checkable
class SharesBadRows(Protocol):
    """Data that exchanges skipped rows between ranks."""

    def sync_skipped_rows(self, trainer: pl.Trainer) -> None: ...


class VLMModule(pl.LightningModule):
    """Trains a VLM to which a tuning was applied (``apply_tuning``).

    The loss of a step is the mean over the supervised tokens of all its batches on all ranks, weighted by
    ``weighting`` and ``first_token_weight`` (see :mod:`hdvl.loss`).

    Attributes:
        step_numbers: tiles, tokens, padded_tokens and supervised_tokens of the last batch.
        step_loss: the loss of the last optimizer step. What is logged as ``train/loss`` is the mean over
            the steps since the last logged one.
        feature_cache: may be set to a store of the features of a frozen encoder.
        source: where frozen weights are read from again, so that checkpoints do not contain them; None:
            checkpoints contain all weights. It is not used for sharded models.
        validated: the first batches of the last validation.
    """

    vlm: VLM
    weighting: Weighting
    first_token_weight: float
    step_loss: Tensor
    feature_cache: FeatureCache | None
    source: Source | None

    def __init__(
        self,
        vlm: VLM,
        *,
        optimizer: Mapping[str, Any],
        tuning: Mapping[str, Any],
        weighting: Weighting = "token",
        first_token_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
        self.vlm, self.optimizer_config, self.tuning = vlm, optimizer, tuning
        check_first_token_weight(first_token_weight)
        self.weighting, self.first_token_weight = weighting, first_token_weight
        self.step_numbers: dict[str, float] = {}
        self.step_loss = torch.zeros(())
        self.feature_cache = self.source = None
        self.validated: list[Validated] = []
        self._sums: StepLoss | None = None
        self._row_loss = RowMean()
        self._last_batch = False
        self._whole: list[VLM] | None = (
            None  # in a list, so that it is not registered as a submodule
        )
        self._frequencies: dict[str, Tensor] = {}
        self._options: list[dict[str, Any]] = []

    def configure_model(self) -> None:
        """Shard the model over the ranks if the strategy asks for it (``trainer=fsdp2``)."""
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            for parameter in self.vlm.parameters():  # DeepSpeed sends parameters as bytes
                parameter.data = parameter.data.contiguous()
        if self.device_mesh is not None and self._whole is None:
            self._whole = [self.vlm]
            self.vlm = shard(self.vlm, self.device_mesh["data_parallel"])
        self._frequencies = frequencies(self.vlm)

    def on_fit_start(self) -> None:
        """Put the exact rotary frequencies back after Lightning has cast the weights."""
        put_back(self.vlm, self._frequencies)

    def finish(self) -> None:
        """Gather sharded weights into the original model, on every rank."""
        if self._whole is not None:
            gather(self.vlm, self._whole[0])

    def train(self, mode: bool = True) -> "VLMModule":
        """Switch to training mode. Frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            set_modes(self.vlm, self.tuning)
        return self

    def on_train_start(self) -> None:
        """Sum losses over the ranks of this trainer, and use the learning rates of its config."""
        trainer = self.trainer
        for setting in trainer.lr_scheduler_configs:
            assert isinstance(setting.scheduler, LambdaLR)
            follow(setting.scheduler, self._options)
        self._sums = StepLoss(
            reduce=partial(trainer.strategy.reduce, reduce_op="sum"),
            world=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
        )

    def training_step(self, batch: Batch, batch_index: int) -> Float[Tensor, ""]:
        """Return the contribution of one batch, padded on the right or packed, to the loss of its step."""
        assert self._sums is not None
        self.step_numbers = batch_numbers(batch)
        accumulate = self.trainer.accumulate_grad_batches
        self._last_batch = (batch_index + 1) % accumulate == 0 or self.trainer.is_last_batch
        loss, weight = batch_loss(
            self.vlm,
            batch,
            self.weighting,
            first_token_weight=self.first_token_weight,
            feature_cache=self.feature_cache,
        )
        return self._sums.add(loss, weight)

    def on_after_backward(self) -> None:
        """Divide the gradients by the weight of the whole step after its last batch."""
        if self._last_batch and self._sums is not None:
            self.step_loss = self._sums.close(self.parameters())
            every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
            mean = self._row_loss.add(self.step_loss, step=self.global_step, every=every)
            self.log("train/loss", mean, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the losses since the last row of the metrics, and no frozen weights of a known source."""
        checkpoint[ROW_LOSS] = self._row_loss.state()
        if self.source is not None:
            self.source.leave_out(checkpoint, self.vlm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the losses since the last row, which early versions did not store, and frozen weights."""
        if self.source is not None:
            self.source.fill_in(checkpoint, self.vlm)
        if ROW_LOSS in checkpoint:
            self._row_loss.restore(checkpoint[ROW_LOSS])

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Exchange skipped rows between ranks at the end of a step, so that they count against one limit."""
        data = getattr(self.trainer, "datamodule", None)
        if self._last_batch and self.trainer.world_size > 1 and isinstance(data, SharesBadRows):
            data.sync_skipped_rows(self.trainer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Raise if an optimizer step would use gradients that are not normalised yet."""
        if self._sums is not None and self._sums.first is not None:
            raise RuntimeError(
                "an optimizer step must follow trainer.accumulate_grad_batches="
                f"{self.trainer.accumulate_grad_batches} batches; it may not change within a run"
            )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the loss, and the fraction of answers whose every token is predicted given those before it."""
        output = validate(self.vlm, batch, self.feature_cache)
        hits = answer_hits(output.logits, batch.labels)
        supervised = int(batch_numbers(batch)["supervised_tokens"])
        assert output.loss is not None
        if batch_index < KEPT:
            found = Validated(batch, float(output.loss.detach()), self.global_step)
            self.validated = [*self.validated[:batch_index], found]
        self.log("validation/loss", output.loss, batch_size=supervised, sync_dist=True)
        # If all rows of a batch were skipped there are no answers, and their mean would be NaN.
        right = hits.float().sum() / max(1, len(hits))
        self.log("validation/answers", right, batch_size=len(hits), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return one optimizer with a learning rate for each group, and a scheduler stepped at each step."""
        config = self.optimizer_config
        groups = parameter_groups(self.vlm, config["groups"], config["common"])
        optimizer = build_optimizer(config, groups)
        scheduler = build_scheduler(
            optimizer,
            total_steps=int(self.trainer.estimated_stepping_batches),
            schedule=config["schedule"],
        )
        self._options = present_options(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the batch. Pixels stay uint8."""
        return batch.to(device)


def batch_numbers(batch: Batch) -> dict[str, float]:
    """The number of tiles, tokens, padded tokens and supervised tokens of a batch."""
    tokens = int(batch.attention_mask.sum())
    return {
        "tiles": float(view_count(batch.pixels)),
        "tokens": float(tokens),
        "padded_tokens": float(batch.attention_mask.numel() - tokens),
        "supervised_tokens": float((batch.labels != IGNORED).sum()),
    }


def answer_hits(logits: Float[Tensor, "b s v"], labels: Tensor) -> Tensor:
    """Return for each answer (a run of supervised positions) whether all of its tokens are predicted."""
    target_ids = labels[:, 1:]
    supervised = target_ids != IGNORED
    wrong = supervised & (logits[:, :-1].argmax(-1) != target_ids)
    starts = supervised & ~torch.nn.functional.pad(supervised, (1, 0))[:, :-1]
    # Answers are numbered in reading order over the batch. One wrong token makes an answer wrong.
    number = starts.flatten().cumsum(0) - 1
    failed = torch.zeros(int(starts.sum()), device=labels.device)
    failed.index_add_(0, number[supervised.flatten()], wrong[supervised].float())
    return failed == 0
