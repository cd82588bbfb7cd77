"""Cross-entropy of next tokens that does not depend on how samples are batched.

The loss of a step is ``sum(weight * cross_entropy) / sum(weight)`` over all supervised tokens of the
step: those of all rows, packed documents, micro-batches and ranks. Both sums are accumulated over the
micro-batches and ranks before the division.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from hdvl.protocols import Segment, lengths_of

IGNORED = -100
"""Label of a position that is not supervised."""
Weighting = Literal["token", "sample", "sqrt"]
WEIGHTINGS = ("token", "sample", "sqrt")


def targets(labels: Int[Tensor, "b s"], segments: Sequence[Segment] | None) -> Int[Tensor, "b s"]:
    """Return the id that each position should predict: the label of the next position.

    The last position of a row, and of each packed piece, has no target. A shared prefix loses no target
    by this, because it ends before the first supervised token.

    Args:
        labels: the label of each position (b, s); -100 where it is not supervised.
        segments: the lengths of the documents packed into one row.
    """
    target_ids = labels.roll(-1, dims=1)
    pieces = [labels.shape[1]] if segments is None else lengths_of(segments)
    target_ids[:, [end - 1 for end in accumulate(pieces)]] = IGNORED
    return target_ids


def token_weights(
    target_ids: Int[Tensor, "b s"],
    segments: Sequence[Segment] | None,
    weighting: Weighting,
    *,
    first_token_weight: float = 1.0,
) -> Float[Tensor, "b s"]:
    """Return the weight of each position's target; 0 where there is no target.

    Args:
        target_ids: the id that each position should predict (b, s), from :func:`targets`.
        segments: the lengths of the documents packed into one row.
        weighting: the weight of each of the n supervised tokens of a conversation: 1 for ``token``, 1/n
            for ``sample`` (a long answer counts as much as a short one), and 1/sqrt(n) for ``sqrt``
            (square averaging, arXiv 2412.05271).
        first_token_weight: the first token of each answer counts as this many tokens, also in n. If an
            answer is read from an image, its first token depends most on whether the right place of the
            image was found.

    Raises:
        ValueError: ``weighting`` is unknown, or ``first_token_weight`` is not above 0.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    check_first_token_weight(first_token_weight)
    mask = (target_ids != IGNORED).float()
    if first_token_weight != 1:
        # At least one position without a target lies between two answers and between two pieces.
        begins = mask * (1 - functional.pad(mask, (1, 0))[:, :-1])
        mask = mask + begins * (first_token_weight - 1)
    if weighting == "token":
        return mask
    pieces = torch.split(mask, lengths_of(segments), dim=1) if segments is not None else (mask,)
    power = {"sample": 1.0, "sqrt": 0.5}[weighting]
    sums = [part.sum(1, keepdim=True) for part in pieces]
    shares = [
        part / total.masked_fill(total == 0, 1) ** power
        for part, total in zip(pieces, sums, strict=True)
    ]
    return torch.cat(shares, dim=1)


def check_first_token_weight(weight: float) -> None:
    """Check that ``weight`` is a finite number above 0.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ValueError(f"first_token_weight must be a number above 0, got {weight!r}")


def supervised(target_ids: Int[Tensor, "b s"]) -> Int[Tensor, " k"]:
    """Return the positions that have a target in at least one row."""
    return (target_ids != IGNORED).any(0).nonzero()[:, 0]


def summed_loss(
    logits: Float[Tensor, "b k v"], target_ids: Int[Tensor, "b k"], weights: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Return the weighted sum of the cross-entropies, computed in fp32.

    Without any target the sum is 0, and so is its gradient.
    """
    kept = target_ids != IGNORED
    # If one row holds supervised positions only, indexing would copy all logits.
    partial = len(logits) > 1 or logits.shape[1] > int(kept.sum())
    picked = logits[kept] if partial else logits[0]
    losses = functional.cross_entropy(picked.float(), target_ids[kept], reduction="none")
    return (losses * weights[kept]).sum()
