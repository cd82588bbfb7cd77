"""Attention of plain decoders over the slots of a cache, without copies of keys and values."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hdvl.llms.small_products import products

SHARED = 64
"""Shared positions are read once if there are at least this many of them."""


@dataclass
class Attending:
    """What the attention of all layers of one forward pass shares.

    Attributes:
        mask: what is added to the scores, or which keys are seen (b, 1, s or 1, keys); ``None`` for all.
        causal: whether each query sees the keys up to its own position, for prompts read from the start.
        shared: the number of first positions that all rows hold the same of; they are read once.
        lengths: the number of keys of each row, if each is read for itself, without a mask.
        single: whether one position of each row is read, with turned keys of all rows; the mask is then
            (b * groups, 1, keys).
    """

    mask: Tensor | None = None
    causal: bool = False
    shared: int = 0
    lengths: list[int] | None = None
    single: bool = False


def attended(
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups k d"],
    value: Float[Tensor, "b groups k d"],
    call: Attending,
    scaling: float,
) -> Float[Tensor, "b s heads d"]:
    """Return what each head reads."""
    batch, heads, count, width = query.shape
    groups = key.shape[1]
    if count > 1:
        found = functional.scaled_dot_product_attention(
            query,
            key if key.stride(-1) == 1 else key.contiguous(),
            value,
            attn_mask=call.mask,
            is_causal=call.causal,
            scale=scaling,
            enable_gqa=heads != groups,
        )
        return found.transpose(1, 2)
    # The heads of a group are the queries of one head, so that keys and values are not repeated.
    query = query.reshape(batch, groups, heads // groups, width)
    if call.shared:
        found = _shared(query * scaling, key, value, call)
    elif call.lengths is not None:
        rows = [
            _one_query(
                query[row : row + 1],
                key[row : row + 1, :, :length],
                value[row : row + 1, :, :length],
                None,
                scaling,
            )
            for row, length in enumerate(call.lengths)
        ]
        found = torch.cat(rows)
    else:
        found = _one_query(query, key, value, call.mask, scaling)
    return found.reshape(batch, 1, heads, width)


def _one_query(
    query: Float[Tensor, "b groups r d"],
    key: Float[Tensor, "b groups k d"],
    value: Float[Tensor, "b groups k d"],
    mask: Float[Tensor, "b 1 1 k"] | None,
    scaling: float,
) -> Float[Tensor, "b groups r d"]:
    """Attention of one position of each row."""
    if key.stride(-1) != 1:
        if mask is not None:
            mask = mask.expand(-1, key.shape[1], -1, -1).flatten(0, 1)
        turned = key.transpose(2, 3).flatten(0, 1)
        found = attended_once(query.flatten(0, 1), turned, value.flatten(0, 1), mask, scaling)
        return found.view(query.shape)
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)


def attended_once(
    query: Float[Tensor, "n r d"],
    turned: Float[Tensor, "n d k"],
    value: Float[Tensor, "n k d"],
    mask: Float[Tensor, "n 1 k"] | None,
    scaling: float,
) -> Float[Tensor, "n r d"]:
    """Attention of one position of each row to turned keys; ``n`` are the groups of all rows."""
    if mask is None:
        scores = torch.bmm(query * scaling, turned)
    else:
        scores = torch.baddbmm(mask, query, turned, alpha=scaling)
    return products(torch.softmax(scores, -1, out=scores), value)


def _shared(
    query: Float[Tensor, "b groups r d"],
    key: Float[Tensor, "b groups k d"],
    value: Float[Tensor, "b groups k d"],
    call: Attending,
) -> Float[Tensor, "b groups r d"]:
    """Attention whose first positions are read for all rows at once, as queries of the first row."""
    batch, groups, each, width = query.shape
    start = call.shared
    together = query.transpose(0, 1).reshape(groups, batch * each, width)
    first = torch.bmm(together, key[0, :, :start].transpose(1, 2))
    first = first.view(groups, batch, each, start).transpose(0, 1)
    own = query @ key[:, :, start:].transpose(2, 3)
    if call.mask is not None:
        own += call.mask[..., start:]
    shares = torch.cat((first, own), -1).softmax(-1)
    weights = shares[..., :start].transpose(0, 1).reshape(groups, batch * each, start)
    read = products(weights, value[0, :, :start]).view(groups, batch, each, width)
    return read.transpose(0, 1) + shares[..., start:] @ value[:, :, start:]
