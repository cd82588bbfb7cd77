"""Attention of many questions about an image, for training: one matrix product for all questions of an image.

It computes the same as ``hdvl.llms.segments``, which calls a kernel for each question. A step with 55
questions about small documents, the encoder's part included, takes 2.4 CPU seconds instead of 3.1 in bf16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdvl.protocols import Segment

NAME = "hdvl_shared_prefix"
LONG = 1800
"""Longer prefixes are read without gradients: their backward pass would take most of the time of a step."""


@dataclass(frozen=True)
class Row:
    """An image with its questions in a packed row.

    Attributes:
        start: where the prefix with the image begins.
        length: its length.
        questions: where each question's tokens are (q l), padded with its first one.
        hidden: what a token must not see of its question (q l l).
        places: where each token of the questions stands among the padded ones.
    """

    start: int
    length: int
    questions: Tensor
    hidden: Tensor
    places: Tensor


def shared(segment: Segment) -> tuple[int, ...]:
    """The lengths of a prefix and of its questions.

    Raises:
        ValueError: the segment is one conversation.
    """
    if isinstance(segment, int):
        raise ValueError(
            f"a segment must be a prefix with its questions, got one of {segment} tokens"
        )
    return segment


def rows_of(segments: Sequence[Segment]) -> list[Row]:
    """The rows of a batch whose segments are (prefix, question, question, ...)."""
    rows, start = list[Row](), 0
    for segment in segments:
        first, *rests = shared(segment)
        longest, begins = max(rests), torch.tensor([0, *rests[:-1]]).cumsum(0) + start + first
        steps, lengths = torch.arange(longest), torch.tensor(rests)
        real = steps < lengths[:, None]
        places = torch.where(real, begins[:, None] + steps, begins[:, None])
        hidden = (steps[None, :] > steps[:, None]) | ~real[:, None, :]
        rows.append(Row(start, first, places, hidden, real.flatten().nonzero().flatten()))
        start += first + sum(rests)
    return rows


def positions_of(segments: Sequence[Segment]) -> Tensor:
    """The position of each token: those of each question follow those of its prefix."""
    found = list[Tensor]()
    for segment in segments:
        first, *rests = shared(segment)
        found += [torch.arange(first), *(torch.arange(first, first + rest) for rest in rests)]
    return torch.cat(found)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    rows: Sequence[Row],
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each prefix, and of each question to its prefix and itself: 1 heads s d."""
    q, k, v = (part[0].to(value.dtype) for part in (query, key, value))
    pieces = list[Tensor]()
    for row in rows:
        prefix = slice(row.start, row.start + row.length)
        before_k, before_v = k[:, prefix], v[:, prefix]
        learns = row.length <= LONG
        if not learns:
            before_k, before_v = before_k.detach(), before_v.detach()
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            pieces.append(_causal(q[:, prefix], before_k, before_v, scaling))
        pieces.append(_asked(row, q, k, v, before_k, before_v, scaling))
    return torch.cat(pieces, 1).transpose(0, 1)[None], None


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    one = (part[None] for part in (q, k, v))
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(*one, is_causal=True, scale=scaling)[0]


def _asked(
    row: Row, q: Tensor, k: Tensor, v: Tensor, before_k: Tensor, before_v: Tensor, scaling: float
) -> Tensor:
    count, longest = row.questions.shape
    begin = row.start + row.length
    asked = q[:, begin : begin + len(row.places)] * scaling
    first = asked @ before_k.transpose(1, 2)  # heads tokens prefix
    flat = row.questions.flatten()
    own_q, own_k, own_v = (
        part.index_select(1, flat).unflatten(1, (count, longest)) for part in (q, k, v)
    )
    second = (own_q * scaling) @ own_k.transpose(2, 3)  # heads questions l l, padded
    second = second.masked_fill_(row.hidden, -torch.inf).flatten(1, 2).index_select(1, row.places)
    with torch.autocast(q.device.type, enabled=False):  # which would copy the scores to fp32
        weights = torch.cat((first, second), -1).softmax(-1)
    seen, own = weights.split((row.length, longest), -1)
    padded = own.new_zeros(own.shape[0], count * longest, longest)
    padded = padded.index_copy(1, row.places, own).unflatten(1, (count, longest))
    return seen @ before_v + (padded @ own_v).flatten(1, 2).index_select(1, row.places)


def use_shared_attention(model: Any) -> None:
    """Let a model of transformers attend by :func:`attend`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *inputs, **options: None)
    model.set_attn_implementation(NAME)
