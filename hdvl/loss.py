"""Cross-entropy of next tokens, such that how samples are laid out does not show in it.

A step's loss is ``sum(weight * cross_entropy) / sum(weight)`` over every supervised token of the
step: of all rows, packed documents, micro-batches and ranks together. Each of them gives its two
sums, and the division comes last.
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
    """The label that each position should predict: that of the position after it.

    The last position of a row, and of each piece of the ``segments`` packed into it, predicts nothing:
    what documents share ends before anything that is supervised.
    """
    wanted = labels.roll(-1, dims=1)
    pieces = [labels.shape[1]] if segments is None else lengths_of(segments)
    wanted[:, [end - 1 for end in accumulate(pieces)]] = IGNORED
    return wanted


def token_weights(
    wanted: Int[Tensor, "b s"],
    segments: Sequence[Segment] | None,
    weighting: Weighting,
    *,
    first_token_weight: float = 1.0,
) -> Float[Tensor, "b s"]:
    """What the target of each position weighs; 0 where there is none.

    With n supervised tokens in a conversation (a row, or a piece of one) each weighs 1 (``token``), 1/n
    (``sample``: a long answer counts no more than a short one) or 1/sqrt(n) (``sqrt``, between the
    two: square averaging, arXiv 2412.05271).

    The first token of each answer counts as ``first_token_weight`` tokens, among the n as well: where an
    answer is read off an image it is the one that says whether the right place was found, and the rest
    follows on from it.

    Raises:
        ValueError: another weighting, or a ``first_token_weight`` of 0 or below.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    check_first_token_weight(first_token_weight)
    said = (wanted != IGNORED).float()
    if first_token_weight != 1:
        # Between two answers, and between two pieces, at least one position predicts nothing.
        begins = said * (1 - functional.pad(said, (1, 0))[:, :-1])
        said = said + begins * (first_token_weight - 1)
    if weighting == "token":
        return said
    pieces = torch.split(said, lengths_of(segments), dim=1) if segments is not None else (said,)
    power = {"sample": 1.0, "sqrt": 0.5}[weighting]
    sums = [part.sum(1, keepdim=True) for part in pieces]
    shares = [
        part / total.masked_fill(total == 0, 1) ** power
        for part, total in zip(pieces, sums, strict=True)
    ]
    return torch.cat(shares, dim=1)


def check_first_token_weight(weight: float) -> None:
    """A wrong one is a ``ValueError``."""
    if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ValueError(f"first_token_weight must be a number above 0, got {weight!r}")


def supervised(wanted: Int[Tensor, "b s"]) -> Int[Tensor, " k"]:
    """The positions that predict something in any row."""
    return (wanted != IGNORED).any(0).nonzero()[:, 0]


def summed_loss(
    logits: Float[Tensor, "b k v"], wanted: Int[Tensor, "b k"], weights: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Weighted sum of the cross-entropies (fp32); 0 with a gradient of 0 where nothing is wanted."""
    kept = wanted != IGNORED
    # In one row of supervised positions alone nothing is left out: no copy of the logits.
    some = len(logits) > 1 or logits.shape[1] > int(kept.sum())
    picked = logits[kept] if some else logits[0]
    losses = functional.cross_entropy(picked.float(), wanted[kept], reduction="none")
    return (losses * weights[kept]).sum()
