"""Key-value caches of transformers for the ``LLM`` protocol."""

import inspect
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from hdvl.protocols import Cache


def empty_cache(model: Any) -> Any:
    """Return an empty cache for ``model``, a causal language model of transformers.

    Raises:
        ValueError: the model does not keep its state as keys and values.
    """
    from transformers import DynamicCache

    if not model._supports_default_dynamic_cache() or model.config.is_encoder_decoder:
        raise ValueError(
            f"a cache of keys and values is needed, {model.config.model_type} keeps what it has read in "
            "another way; call generate, which knows it"
        )
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def continuation_arguments(
    model: Any,
    embeddings: Float[Tensor, "b s e"],
    mask: Int[Tensor, "b p"] | Bool[Tensor, "b p"] | None,
    positions: Int[Tensor, "b s"] | None,
    cache: Cache,
) -> dict[str, Any]:
    """Return the arguments, besides embeddings and mask, of a forward pass that continues ``cache``.

    Raises:
        ValueError: the mask does not cover the positions of the cache and of the embeddings.
    """
    count = embeddings.shape[1]
    if mask is not None:  # caches of recurrent states alone have no length
        total = cache.get_seq_length() + count
        if mask.shape[1] != total:
            raise ValueError(
                f"attention_mask must cover the cache and the embeddings, {total} positions, got "
                f"{mask.shape[1]}"
            )
    if positions is None and mask is not None:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -count:]
    return {cache_argument(model): cache, "position_ids": positions}


def cache_argument(model: Any) -> str:
    """Return the name of the argument by which ``model`` takes a cache; recurrent models have another."""
    names = inspect.signature(model.forward).parameters
    own = "cache_params" in names and "past_key_values" not in names
    return "cache_params" if own else "past_key_values"
