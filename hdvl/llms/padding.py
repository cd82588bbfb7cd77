"""Attention in a padded batch: each row attends to what is its own, and no mask over its pairs is built.

A mask of s x s pairs takes memory with the square of the length, and rules out the causal kernels,
which skip half of the pairs. A row without its padding needs none.
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hdvl.llms.kernels import causal


def padding_or_mask(**options: Any) -> Tensor | None:
    """What transformers builds for SDPA, but of a padded prompt under plain causal attention the padding.

    ``options`` are those of transformers' mask functions. The padding (b s) goes to
    :func:`attend_without_padding`; anything else is a mask (b 1 q k), or None.
    """
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    padding, length = options.get("attention_mask"), options.get("kv_length")
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


def attend_without_padding(
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups s d"],
    value: Float[Tensor, "b groups s d_v"],
    padding: Shaped[Tensor, "b s"],
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Float[Tensor, "b s heads d_v"]:
    """Causal attention of each row among its positions that are no padding; zeros at the others."""
    attended = query.new_zeros(*query.transpose(1, 2).shape[:3], value.shape[-1])
    for row, own in enumerate(padding.bool()):
        places = own.nonzero().squeeze(1)
        q, k, v = (part[row : row + 1].index_select(2, places) for part in (query, key, value))
        found = causal(q, k, v, dropout, scaling)
        attended[row, places] = found[0].transpose(0, 1)
    return attended
