"""Slots for decoders of the plain kind (Llama, Qwen2, Qwen3 and their like), computed layer by layer.

The modules of transformers spend much of a small step outside of matrix products: on masks, caches,
options, and norms in several operations. This module computes the same from the same weights, with the
fused operations of torch and without copies of keys and values. It is used only if its logits are those
of the model (:mod:`hdvl.llms.probe`), and on a CPU: on a GPU decoding steps are CUDA graphs or compiled.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from hdvl.llms.slots import ModelSlots

_BASE = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def is_plain(model: Any) -> bool:
    """Whether ``model`` is built of the modules that :class:`PlainSlots` knows, and nothing changes them.

    Whether it computes the same with them is another question, which the probe answers.
    """
    base, config = model.base_model, model.config
    if {name for name, _ in base.named_children()} != _BASE:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    windowed = window is not None and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or (windowed and not hasattr(config, "layer_types")):
        return False
    hooked = any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    return not hooked and all(_is_plain_layer(layer) for layer in base.layers)


def _is_plain_layer(layer: Any) -> bool:
    names = {name for name, _ in layer.named_children()}
    if names != _LAYER:
        return False
    attention = {name for name, _ in layer.self_attn.named_children()}
    if attention - {"q_norm", "k_norm"} != _ATTENTION:
        return False
    mlp = dict(layer.mlp.named_children())
    linear = [getattr(layer.self_attn, name) for name in _ATTENTION]
    linear += [module for name, module in mlp.items() if name != "act_fn"]
    norms = [getattr(layer, name) for name in ("input_layernorm", "post_attention_layernorm")]
    norms += [getattr(layer.self_attn, name) for name in attention - _ATTENTION]
    return (
        set(mlp) == _MLP
        and all(type(module) is nn.Linear for module in linear)
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
        and all(hasattr(layer.self_attn, name) for name in ("head_dim", "scaling"))
    )


@dataclass
class _Call:
    """What all layers of one forward pass share."""

    cosines: Tensor
    sines: Tensor
    mask: Tensor | None
    causal: bool


class PlainSlots(ModelSlots):
    """Slots of a plain decoder. The weights are those of the model, which may change between the calls."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._angles: tuple[Tensor, Tensor] | None = None

    def prefill(
        self, embeddings: Float[Tensor, "s e"], slot: int, start: int, total: int, keep: int = 1
    ) -> Float[Tensor, "keep v"]:
        """Read a part of a prompt; see :class:`~hdvl.decoding.slots.Slots`."""
        count = len(embeddings)
        self.cache.read_slot(slot, start, count)
        cosines, sines = (part[start : start + count] for part in self._rotation(embeddings))
        mask = None
        if start and count > 1:  # the last query sees all keys
            mask = torch.ones(count, start + count, dtype=torch.bool, device=embeddings.device)
            mask = mask.tril(start)[None, None]
        call = _Call(cosines, sines, mask, causal=not start and count > 1)
        return self._head(self._layers(embeddings[None], call)[0, -keep:])

    def _last_logits(
        self,
        rows: Float[Tensor, "b s e"],
        places: Int[Tensor, " b"],
        last: Int[Tensor, " b"],
        size: int,
    ) -> Float[Tensor, "b v"]:
        positions = places[:, None] + torch.arange(rows.shape[1], device=rows.device)
        cosines, sines = (part[positions, None] for part in self._rotation(rows[0]))
        mask = (torch.arange(size, device=rows.device) <= positions[..., None])[:, None]
        hidden = self._layers(rows, _Call(cosines, sines, mask, causal=False))
        return self._head(hidden[torch.arange(len(rows), device=rows.device), last])

    def _decode_rows(
        self, embeddings: Float[Tensor, "rows e"], places: Int[Tensor, " rows"], size: int
    ) -> Float[Tensor, "rows v"]:
        self.cache.read_rows(places, size)
        cosines, sines = (part[places, None, None] for part in self._rotation(embeddings))
        unseen = torch.arange(size, device=embeddings.device) > places[:, None, None, None]
        mask = embeddings.new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
        call = _Call(cosines, sines, mask, causal=False)
        return self._head(self._layers(embeddings[:, None], call)[:, 0])

    def _rotation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (length, d) of all positions of a slot, of the model's own module."""
        length = self.cache.length
        known = self._angles
        if known is None or len(known[0]) < length or known[0].dtype != like.dtype:
            places = torch.arange(length, device=like.device)[None]
            cosines, sines = self.model.base_model.rotary_emb(like[None], position_ids=places)
            sines = sines[0].clone()
            sines[:, : sines.shape[1] // 2].neg_()
            known = self._angles = cosines[0], sines
        return known

    def _layers(self, hidden: Float[Tensor, "b s e"], call: _Call) -> Float[Tensor, "b s e"]:
        shape = hidden.shape
        flat = hidden.reshape(-1, shape[2])  # products of matrices are quicker with two axes
        for index, layer in enumerate(self.model.base_model.layers):
            inner = _norm(layer.input_layernorm, flat)
            flat = flat + self._attention(index, layer.self_attn, inner, shape[:2], call)
            mlp = layer.mlp
            inner = _norm(layer.post_attention_layernorm, flat)
            inner = mlp.act_fn(_linear(mlp.gate_proj, inner)).mul_(_linear(mlp.up_proj, inner))
            flat = flat + _linear(mlp.down_proj, inner)
        return flat.view(shape)

    def _attention(
        self, index: int, own: Any, hidden: Float[Tensor, "n e"], size: torch.Size, call: _Call
    ) -> Float[Tensor, "n e"]:
        shape = (*size, -1, own.head_dim)
        query, key = (_linear(one, hidden).view(shape) for one in (own.q_proj, own.k_proj))
        value = _linear(own.v_proj, hidden).view(shape).transpose(1, 2)
        if "q_norm" in own._modules:
            query, key = _norm(own.q_norm, query), _norm(own.k_norm, key)
        query, key = (
            _rotated(part, call.cosines, call.sines).transpose(1, 2) for part in (query, key)
        )
        key, value = self.cache.update(key, value, index)
        attended = _attended(query, key, value, call, own.scaling)
        return _linear(own.o_proj, attended.reshape(len(hidden), -1))

    def _head(self, hidden: Float[Tensor, "n e"]) -> Float[Tensor, "n v"]:
        found: Tensor = self.model.get_output_embeddings()(
            _norm(self.model.base_model.norm, hidden)
        )
        return found


def _norm(module: Any, hidden: Tensor) -> Tensor:
    return functional.rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)


def _linear(module: Any, hidden: Tensor) -> Tensor:
    return functional.linear(hidden, module.weight, module.bias)


def _rotated(
    part: Float[Tensor, "b s heads d"], cosines: Tensor, sines: Tensor
) -> Float[Tensor, "b s heads d"]:
    """Rotary embedding of the two halves of each head; the angles are (s, d) or (b, s, 1, d).

    ``sines`` have the sign of the turned halves: negative in the first one.
    """
    if cosines.ndim == 2:
        cosines, sines = cosines[:, None], sines[:, None]
    return torch.addcmul(part * cosines, part.roll(part.shape[-1] // 2, -1), sines)


def _attended(
    query: Float[Tensor, "b heads s d"],
    key: Float[Tensor, "b groups k d"],
    value: Float[Tensor, "b groups k d"],
    call: _Call,
    scaling: float,
) -> Float[Tensor, "b s heads d"]:
    batch, heads, count, width = query.shape
    groups = key.shape[1]
    if count > 1:
        found = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=call.mask,
            is_causal=call.causal,
            scale=scaling,
            enable_gqa=heads != groups,
        )
        return found.transpose(1, 2)
    # The heads of a group are the queries of one head, so that keys and values are not repeated.
    mask = call.mask
    if mask is not None:
        mask = mask.expand(-1, -1, heads // groups, -1)
    found = functional.scaled_dot_product_attention(
        query.reshape(batch, groups, heads // groups, width),
        key,
        value,
        attn_mask=mask,
        scale=scaling,
    )
    return found.reshape(batch, 1, heads, width)
