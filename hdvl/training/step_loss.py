"""One optimizer step's loss: divided by the supervised tokens of all its micro-batches and ranks.

How many these are is known when the last micro-batch is read. So the gradients of the step are made
with the count of its first micro-batch, and set right once, by one factor, after the last. Without
accumulation the factor is 1 and nothing is done.
"""

from collections.abc import Callable, Iterable

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
    """The weighted sum of the losses of a batch, padded on the right or packed, and what they weigh.

    Only supervised positions cross the head. For the weights see :mod:`hdvl.loss`; ``feature_cache``
    holds the features of a frozen encoder.
    """
    wanted = targets(batch.labels, batch.segments)
    weights = token_weights(
        wanted, batch.segments, weighting, first_token_weight=first_token_weight
    )
    # Padding stands on the right, where no position looks: no mask, and the causal kernel runs.
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


class StepLoss:
    """Sums over the micro-batches and ranks of one optimizer step.

    Args:
        reduce: sums a tensor over all ranks.
        world: how many ranks there are; their gradients are averaged.
        accumulate: micro-batches a step; losses are divided by it before each backward pass.
    """

    def __init__(
        self, *, reduce: Callable[[Tensor], Tensor], world: int = 1, accumulate: int = 1
    ) -> None:
        self.reduce, self.world, self.accumulate = reduce, world, accumulate
        self.first: Tensor | None = None
        self.sums = self._rest = torch.zeros(2)

    def add(self, loss: Float[Tensor, ""], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What to call backward on, for the weighted sum of losses of a micro-batch of one rank."""
        own = torch.stack([loss.detach(), weight]).float()
        if self.first is None:
            self.sums = self.reduce(own.clone())
            self.first = _divisor(self.sums[1])
            self._rest = torch.zeros_like(own)
        else:
            self._rest += own
        return loss * (self.world * self.accumulate / self.first).to(loss.dtype)

    def close(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """After the last backward pass: set the gradients right, and give the mean loss of the step.

        Raises:
            RuntimeError: gradients were accumulated where they cannot be reached (DeepSpeed).
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
    """Without any supervised token the sums are zero: any divisor but 0 will do."""
    return torch.where(weight == 0, torch.ones_like(weight), weight)
