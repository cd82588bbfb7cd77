"""The loss of one optimizer step: the mean over the supervised tokens of all its micro-batches and ranks.

The number of these tokens is only known when the last micro-batch has been read. Gradients are
therefore computed with the count of the first micro-batch, and multiplied by one correction factor
after the last. Without gradient accumulation the factor is 1 and no gradient is touched.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hdvl.loss import Weighting, targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch
from hdvl.protocols import FeatureCache


def batch_loss(
    vlm: VLM,
    batch: Batch,
    weighting: Weighting = "token",
    *,
    first_token_weight: float = 1.0,
    feature_cache: FeatureCache | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the weighted sum of the token losses of a batch, padded or packed, and its total weight.

    The head is computed only at supervised positions. See :mod:`hdvl.loss` for the weights.
    ``feature_cache`` holds the features of a frozen encoder.
    """
    target_ids = targets(batch.labels, batch.segments)
    weights = token_weights(
        target_ids, batch.segments, weighting, first_token_weight=first_token_weight
    )
    # Padding is on the right, where causal attention does not look, so no mask is needed.
    output = vlm(
        batch.input_ids,
        batch.pixels,
        batch.plans,
        None,
        batch.labels,
        segments=batch.segments,
        weights=weights,
        all_logits=False,
        feature_cache=feature_cache,
    )
    assert output.loss is not None
    return output.loss, weights.sum()


class RowMean:
    """The mean of a number over the optimizer steps since the last row of ``metrics.csv``."""

    def __init__(self) -> None:
        self._sum: Tensor = torch.zeros(())
        self._count = 0

    def add(self, value: Tensor, *, step: int, every: int) -> Tensor:
        """Add the value of one step, and return the mean.

        Args:
            value: the number.
            step: the optimizer steps that were made before this one.
            every: the steps from one row to the next.
        """
        if step % every == 0:  # a row was written after the step before
            self._sum, self._count = torch.zeros_like(value), 0
        self._sum = self._sum.to(value.device) + value.detach()
        self._count += 1
        return self._sum / self._count

    def state(self) -> dict[str, float]:
        """What a checkpoint holds, so that the row of a resumed run is that of an uninterrupted one."""
        return {"sum": float(self._sum), "count": self._count}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from the :meth:`state` in a checkpoint."""
        self._sum, self._count = torch.tensor(float(state["sum"])), int(state["count"])


class StepLoss:
    """Sums over the micro-batches and ranks of one optimizer step.

    Args:
        reduce: sums a tensor over all ranks.
        world: number of ranks, whose gradients are averaged.
        accumulate: micro-batches per step; Lightning divides losses by it before each backward pass.
    """

    def __init__(
        self, *, reduce: Callable[[Tensor], Tensor], world: int = 1, accumulate: int = 1
    ) -> None:
        self.reduce, self.world, self.accumulate = reduce, world, accumulate
        self.first: Tensor | None = None
        self.sums = self._rest = torch.zeros(2)

    def add(self, loss: Float[Tensor, ""], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the loss to call backward on, for the weighted losses of one micro-batch of this rank."""
        own = torch.stack([loss.detach(), weight]).float()
        if self.first is None:
            self.sums = self.reduce(own.clone())
            self.first = _divisor(self.sums[1])
            self._rest = torch.zeros_like(own)
        else:
            self._rest += own
        return loss * (self.world * self.accumulate / self.first).to(loss.dtype)

    def close(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """Correct the gradients after the last backward pass, and return the mean loss of the step.

        Raises:
            RuntimeError: gradients were accumulated where they cannot be accessed (DeepSpeed).
        """
        assert self.first is not None, "close comes after add"
        if self.accumulate > 1:
            self.sums = self.sums + self.reduce(self._rest.clone())
            self._scale(parameters, float(self.first / _divisor(self.sums[1])))
        self.first = None
        total, weight = self.sums
        mean: Tensor = total / _divisor(weight)
        return mean

    def _scale(self, parameters: Iterable[nn.Parameter], factor: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            raise RuntimeError(
                "gradients of accumulated micro-batches must be within reach to be normalised by "
                "their supervised tokens, this strategy hides them; set "
                "trainer.accumulate_grad_batches=1"
            )
        if factor != 1.0:
            for gradient in gradients:
                gradient.mul_(factor)


def _divisor(weight: Tensor) -> Tensor:
    """Return ``weight``, or 1 where it is 0, because the sums are then zero, too."""
    return torch.where(weight == 0, torch.ones_like(weight), weight)
