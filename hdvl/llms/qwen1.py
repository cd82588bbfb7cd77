"""Context extension of the first Qwen models, which Qwen2 does not have: dynamic NTK and LogN.

Both apply in evaluation mode only, and do not change texts of up to ``seq_length`` tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.llms.segments import NAME

_DOUBLINGS = 24
"""Upper limit of doublings of ``seq_length``, far beyond what fits into memory."""


@dataclass(frozen=True)
class Qwen1Rules:
    """Dynamic NTK and LogN of Qwen-1 for a model of the Qwen2 family (arXiv 2309.16609, section 2.3).

    *Dynamic NTK*: for a prompt longer than ``seq_length`` the rotary base is multiplied by
    ``alpha ** (d / (d - 2))`` for heads of width d, where alpha is 3 for up to twice the length, 7 for up
    to four times, and so on. Generated tokens use the alpha of their prompt.

    *LogN*: the query of the p-th token (p > ``seq_length``) is multiplied by the logarithm of p to the
    base ``seq_length``.

    Lengths and positions are counted without padding and for each packed document, so the logits do not
    depend on batching. The published code counts padding as tokens, as does ``count_padding``.

    Raises:
        ValueError: ``seq_length`` is below 2, or (when attached) the model is of another family.
    """

    seq_length: int
    dynamic_ntk: bool = True
    logn: bool = True
    count_padding: bool = False

    def __post_init__(self) -> None:
        if self.seq_length < 2:
            raise ValueError(f"seq_length must be at least 2, got {self.seq_length}")

    def attach(self, model: Any) -> None:
        """Make ``model``, a causal language model of transformers, follow these rules."""
        kind = model.config.model_type
        if kind != "qwen2":
            raise ValueError(f"the rules of Qwen-1 need a model_type of qwen2, got {kind!r}")
        if not (self.dynamic_ntk or self.logn):
            return
        decoder = model.base_model
        decoder.register_forward_pre_hook(self._prepare_call, with_kwargs=True)
        for layer in decoder.layers:
            layer.register_forward_pre_hook(_set_rotation, with_kwargs=True)

    def _prepare_call(self, decoder: Any, args: tuple[Any, ...], call: dict[str, Any]) -> Any:
        """Add the rotary angles and the query scale of the layers to a call of the decoder."""
        if decoder.training:
            return None
        call = {**call, "past_key_values": _cache(decoder, call)}
        embeddings = call.get("inputs_embeds")
        given = call["input_ids"] if embeddings is None else embeddings
        places, lengths = self._places(given, call)
        past = call["past_key_values"]
        seen = 0 if past is None else int(past.get_seq_length())
        if self.dynamic_ntk:
            self._check_shared(call)
            doublings = self._doublings(lengths, past, seen)
            dtype = decoder.embed_tokens.weight.dtype
            call["rotation"] = rotation(decoder.config, places, doublings, dtype)
        if self.logn and seen + given.shape[1] > self.seq_length:
            if decoder.config._attn_implementation != NAME:
                raise ValueError(
                    f"LogN needs the attention {NAME}, got {decoder.config._attn_implementation}"
                )
            call["query_scale"] = self.query_scale(places)[:, None, :, None]
        return args, call

    def _places(
        self, given: Tensor, call: dict[str, Any]
    ) -> tuple[Int[Tensor, "_b s"], Int[Tensor, "_b _k"]]:
        """Return the position of each token in its text, from 0, and the length of that text."""
        mask, ids, past = (
            call.get(name) for name in ("attention_mask", "position_ids", "past_key_values")
        )
        ends = call.get("cu_seq_lens_q")
        if ends is not None:  # documents packed into one row
            assert ids is not None
            sizes = call["cu_seq_lens_k"].diff().long()
            return ids, sizes.repeat_interleave(ends.diff())[None]
        count = given.shape[1]
        places = torch.arange(count, device=given.device)[None]
        places = places + (0 if past is None else past.get_seq_length())
        if not self.count_padding:
            if isinstance(mask, Tensor) and mask.ndim == 2:
                places = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -count:]
            elif ids is not None:
                places = ids
        return places, places.amax(1, keepdim=True) + 1

    def _check_shared(self, call: dict[str, Any]) -> None:
        """Check that no conversation of a shared prefix needs other rotary angles than the prefix."""
        if call.get("key_places") is not None and call["max_length_k"] > self.seq_length:
            raise ValueError(
                "conversations that share images must fit the model's seq_length="
                f"{self.seq_length} where dynamic_ntk is true, the longest has "
                f"{call['max_length_k']} tokens; set data.train.independent=false"
            )

    def _doublings(self, lengths: Int[Tensor, "b k"], past: Any, seen: int) -> Int[Tensor, "b k"]:
        """Return how often ``seq_length`` must be doubled for the prompt; it is stored with the cache."""
        kept: Tensor | None = getattr(past, "qwen1_doublings", None)
        if seen and kept is None:
            raise ValueError(
                "key-value cache must have been filled by this model in evaluation mode, it "
                "does not say the length of its prompt"
            )
        if kept is not None:
            return kept
        doublings = self._longest(lengths)
        if past is not None:
            past.qwen1_doublings = doublings
        return doublings

    def _longest(self, lengths: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        powers = torch.arange(_DOUBLINGS, device=lengths.device)
        return (lengths[..., None] > self.seq_length * 2**powers).sum(-1)

    def prepare(self, past: Any, prompt_lengths: Sequence[int], device: torch.device) -> None:
        """Store the lengths of the complete prompts with an empty cache, if they are read in parts."""
        if self.dynamic_ntk:
            lengths = torch.tensor(list(prompt_lengths), device=device)[:, None]
            past.qwen1_doublings = self._longest(lengths)

    def query_scale(self, places: Int[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """Return the factor of LogN for the query at each position, from 0."""
        return ((places + 1).float().log() / math.log(self.seq_length)).clamp(min=1)


def alpha(doublings: int) -> int:
    """Return the factor of dynamic NTK for a prompt that fits ``seq_length`` after so many doublings.

    >>> [alpha(n) for n in range(4)]
    [1, 3, 7, 15]
    """
    return int(2 ** (doublings + 1) - 1)


def rotation(
    config: Any, places: Int[Tensor, "b s"], doublings: Int[Tensor, "b k"], dtype: torch.dtype
) -> tuple[Float[Tensor, "b s d"], Float[Tensor, "b s d"]]:
    """Return cosines and sines of the rotary angles, computed in float32."""
    base = float(config.rope_parameters["rope_theta"])
    size = int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    bases = [base * alpha(n) ** (size / (size - 2)) for n in range(_DOUBLINGS + 1)]
    powers = torch.arange(0, size, 2, device=places.device).float() / size
    steps = 1 / torch.tensor(bases, device=places.device)[doublings][..., None] ** powers
    angles = places[..., None].float() * steps
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _cache(decoder: Any, call: dict[str, Any]) -> Any:
    """Return the cache of a call, or a new one if the decoder would create it, to store attributes on it."""
    past, use_cache = call.get("past_key_values"), call.get("use_cache")
    if past is None and (decoder.config.use_cache if use_cache is None else use_cache):
        from transformers import DynamicCache

        return DynamicCache(config=decoder.config)
    return past


def _set_rotation(layer: Any, args: tuple[Any, ...], call: dict[str, Any]) -> Any:
    """Replace the rotary angles of a layer by those of this call, if there are any."""
    own = call.pop("rotation", None)
    return None if own is None else (args, {**call, "position_embeddings": own})
