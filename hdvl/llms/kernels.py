"""Causal attention for one document, for packed documents, and as a custom operator for compiled graphs."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from hdvl.compat.torch import variable_length_attention

Ends = tuple[Int[Tensor, " ends"], Int[Tensor, " ends"]]
"""Cumulative lengths, beginning with 0, of the queries of each document and of the keys they attend to."""


def causal(
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups s_k d"],
    value: Float[Tensor, "b groups s_k d_v"],
    dropout: float,
    scaling: float | None,
) -> Float[Tensor, "b heads s d_v"]:
    """Apply causal SDPA. If there are fewer queries than keys, the last query attends to all keys."""
    gradients, seen = query.shape[2], key.shape[2]
    mask = None
    if gradients != seen:  # SDPA aligns the first query with the first key instead
        mask = torch.ones(gradients, seen, dtype=torch.bool, device=query.device).tril(
            seen - gradients
        )
    attended: Tensor = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended


def one_by_one(
    query: Float[Tensor, "1 heads s d"],
    key: Float[Tensor, "1 groups s_k d"],
    value: Float[Tensor, "1 groups s_k d_v"],
    dropout: float,
    scaling: float | None,
    ends: Ends,
) -> Float[Tensor, "1 s heads d_v"]:
    """Apply SDPA to each document separately."""
    gradients, seen = (edges.diff().tolist() for edges in ends)
    # The backward pass of split joins the gradients of the pieces once; that of slices would sum them.
    parts = ((query, gradients), (key, seen), (value, seen))
    pieces = zip(*(torch.split(part, lengths, dim=2) for part, lengths in parts), strict=True)
    attended = [causal(q, k, v, dropout, scaling) for q, k, v in pieces]
    return torch.cat([piece.transpose(1, 2) for piece in attended], dim=1)


def all_at_once(
    query: Float[Tensor, "1 heads s d"],
    key: Float[Tensor, "1 groups s_k d"],
    value: Float[Tensor, "1 groups s_k d_v"],
    scaling: float | None,
    ends: Ends,
    longest: tuple[int, int],
) -> Float[Tensor, "1 s heads d_v"]:
    """Apply one variable-length kernel to all documents (on a GPU in half precision)."""
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return variable_length_attention(q, k, v, ends, longest, scaling)[None]


def attend_one_query(
    query: Float[Tensor, "b heads 1 d"],
    key: Float[Tensor, "b groups s_k d"],
    value: Float[Tensor, "b groups s_k d_v"],
    mask: Bool[Tensor, "b 1 1 s_k"] | None,
    scaling: float | None,
) -> Float[Tensor, "b 1 heads d_v"]:
    """Apply attention of one query of each row by matrix products.

    On a GPU fused attention with a mask computes each head in one block, so that most of the device is idle.
    """
    rows, heads, _, width = query.shape
    groups = key.shape[1]
    scaling = width**-0.5 if scaling is None else scaling
    asked = (query * scaling).reshape(rows, groups, heads // groups, width)
    scores = (asked @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    attended = scores.softmax(-1).to(value.dtype) @ value
    return attended.reshape(rows, 1, heads, value.shape[-1])


# Shapes depend on the documents of a row. As a custom operator they are invisible to torch.compile, which
# would compile for every row otherwise. Custom operators need plain annotations.
@torch.library.custom_op("hdvl::documents", mutates_args=())
def one_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    scaling: float | None,
) -> Tensor:
    """:func:`one_by_one` without dropout as an operator; the backward pass recomputes it."""
    return one_by_one(query, key, value, 0.0, scaling, (ends_q, ends_k))


@torch.library.custom_op("hdvl::documents_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    scaling: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    def recompute(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return one_by_one(query, key, value, 0.0, scaling, (ends_q, ends_k))

    grad_outputs = torch.func.vjp(recompute, query, key, value)[1]
    q, k, v = (part.contiguous() for part in grad_outputs(gradient))
    return q, k, v


@one_operator.register_fake
def _empty(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
    batch, heads, length, _ = query.shape
    return query.new_empty(batch, length, heads, value.shape[-1])


@_backward.register_fake
def _empty_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward_operator(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None, None


one_operator.register_autograd(_backward_operator, setup_context=_setup_context)
