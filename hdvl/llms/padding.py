"""Attention for padded batches without an (s, s) mask.

The memory of such a mask grows with the square of the length, and the causal kernels, which skip half of
the pairs, do not support it. Without its padding a row needs no mask.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from hdvl.llms.kernels import causal


def padding_or_mask(**options: Any) -> Tensor | None:
    """Return the padding (b, s) of a prompt, or the mask (b, 1, q, k) that transformers builds for SDPA.

    The padding is returned for prompts with plain causal attention, and handled by
    :func:`attend_without_padding`.

    Args:
        **options: arguments of the mask functions of transformers.
    """
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    padding, length = options.get("attention_mask"), options.get("kv_length")
    if isinstance(options.get("q_offset"), Tensor):
        return _mask_of_rows(**options)
    prompt = options.get("q_length") == length and options["mask_function"] is causal_mask_function
    by_row = (
        prompt
        and padding is not None
        and padding.shape[-1] == length
        and not torch.compiler.is_compiling()
        and not padding.all()
    )
    mask: Tensor | None = padding if by_row else sdpa_mask(**options)
    return mask


def _mask_of_rows(
    *,
    q_offset: Int[Tensor, " b"],
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    **options: Any,
) -> Bool[Tensor, "b 1 q k"]:
    """Return the mask of rows whose queries begin at different positions, ``q_offset``."""
    device = q_offset.device
    rows = torch.arange(len(q_offset), device=device)[:, None, None, None]
    queries = (q_offset[:, None] + torch.arange(q_length, device=device))[:, None, :, None]
    keys = torch.arange(kv_length, device=device)
    found: Tensor = mask_function(rows, torch.zeros_like(rows), queries, keys)
    return found.expand(len(q_offset), 1, q_length, kv_length)


def attend_without_padding(
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups s d"],
    value: Float[Tensor, "b groups s d_v"],
    padding: Shaped[Tensor, "b s"],
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Float[Tensor, "b s heads d_v"]:
    """Apply causal attention to each row without its padding; the output is zero for padding."""
    attended = query.new_zeros(*query.transpose(1, 2).shape[:3], value.shape[-1])
    for row, own in enumerate(padding.bool()):
        places = own.nonzero().squeeze(1)
        q, k, v = (part[row : row + 1].index_select(2, places) for part in (query, key, value))
        found = causal(q, k, v, dropout, scaling)
        attended[row, places] = found[0].transpose(0, 1)
    return attended
