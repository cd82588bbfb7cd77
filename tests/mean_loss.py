"""The loss of a batch, as padded rows or as one packed row."""

from typing import Any

import torch

from hdvl.loss import targets, token_weights
from hdvl.processor import Batch


def mean_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The mean over all supervised tokens."""
    weights = token_weights(targets(batch.labels, batch.segments), batch.segments, "token")
    found: torch.Tensor = model(
        *(batch.input_ids, batch.pixels, batch.plans, None, batch.labels),
        segments=batch.segments,
        weights=weights / weights.sum(),
    ).loss
    return found
