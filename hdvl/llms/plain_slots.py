"""Slots for decoders of the plain kind (Llama, Qwen2, Qwen3 and their like), computed layer by layer.

The modules of transformers spend much of a small step outside of matrix products: on masks, caches,
options, and norms in several operations. This module computes the same from the same weights, with the
fused operations of torch and without copies of keys and values. It is used only if its logits are those
of the model (:mod:`hdvl.llms.probe`), and on a CPU: on a GPU decoding steps are CUDA graphs or compiled.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hdvl.llms.joint_weights import Copies, JointLinear, copies_for
from hdvl.llms.slot_attention import SHARED, Attending, attended, attended_once
from hdvl.llms.slot_cache import SlotCache
from hdvl.llms.slots import ModelSlots

UNUSED = 2**19
"""The attention of a row is a call of its own if it saves reading this many bytes for each row."""

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keeps new keys and values of a layer, and returns those of all positions."""

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
    # accelerate's hooks, which fetch offloaded weights, are attributes of their own.
    hooked = any(
        one._forward_hooks or one._forward_pre_hooks or hasattr(one, "_hf_hook")
        for one in model.modules()
    )
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
class _Call(Attending):
    """What all layers of one forward pass share: angles (s, d) or (b, 1, 1, d), and the attention."""

    cosines: Tensor = field(default_factory=lambda: torch.empty(0))
    sines: Tensor = field(default_factory=lambda: torch.empty(0))


class _Norm:
    """Root mean square norm over the last axis.

    Args:
        module: the norm of the model.
        weight: its weight, if it is not that of the module.
        folded: whether the following layer multiplies by :attr:`factors` in the place of this norm.

    Attributes:
        factors: the numbers (d,) that the normalised vectors of length 1 are multiplied by.
    """

    def __init__(self, module: Any, weight: Tensor | None = None, *, folded: bool = False) -> None:
        self._weight = module.weight if weight is None else weight
        width = self._weight.shape[-1]
        self._root = math.sqrt(width)
        epsilon = math.sqrt(width * float(module.variance_epsilon))
        self._epsilon = torch.full((), epsilon, device=self._weight.device)
        self._scaled = self._weight * self._root
        self.factors = self._scaled if folded else None

    def __call__(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        # Half the time of rms_norm, which consists of more operations on a CPU.
        wide = hidden if hidden.dtype.itemsize >= 4 else hidden.float()
        length: Tensor = torch.linalg.vector_norm(wide, 2, -1, True).hypot(self._epsilon)
        if self.factors is not None:
            return wide.div(length)
        if wide is hidden:
            return wide.div(length).mul_(self._scaled)
        return wide.div(length).mul_(self._root).to(hidden.dtype).mul_(self._weight)


class _Layer:
    """One layer, its weights as they are read."""

    def __init__(self, layer: Any, copies: Copies | None) -> None:
        own, mlp = layer.self_attn, layer.mlp
        self.width, self.scaling = own.head_dim, own.scaling
        self.heads, self.groups = (
            part.weight.shape[0] // self.width for part in (own.q_proj, own.k_proj)
        )
        self.before, self.joint = _normed(
            layer.input_layernorm, [own.q_proj, own.k_proj, own.v_proj], copies
        )
        self.out = JointLinear([own.o_proj], copies)
        self.after, self.gates = _normed(
            layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], copies
        )
        self.down = JointLinear([mlp.down_proj], copies)
        self.act: Callable[[Tensor], Tensor] = mlp.act_fn.forward  # it has no hooks
        self.head_norm: _Norm | None = None
        if "q_norm" in own._modules:
            weights = (
                own.q_norm.weight.expand(self.heads, -1),
                own.k_norm.weight.expand(self.groups, -1),
            )
            self.head_norm = _Norm(own.q_norm, torch.cat(weights))

    def attention(
        self, hidden: Float[Tensor, "n e"], size: torch.Size, call: _Call, store: Store
    ) -> Float[Tensor, "n e"]:
        """Return what the heads of the normed ``hidden`` read, side by side."""
        if call.single:
            return self._single(hidden, call, store)
        joint = self.joint(hidden).view(*size, -1, self.width)
        turned = joint[:, :, : self.heads + self.groups]
        if self.head_norm is not None:
            turned = self.head_norm(turned)
        turned = _rotated(turned, call.cosines, call.sines).transpose(1, 2)
        key, value = store(
            turned[:, self.heads :], joint[:, :, self.heads + self.groups :].transpose(1, 2)
        )
        found = attended(turned[:, : self.heads], key, value, call, self.scaling)
        return found.reshape(len(hidden), -1)

    def _single(
        self, hidden: Float[Tensor, "b e"], call: _Call, store: Store
    ) -> Float[Tensor, "b e"]:
        """The same for one position of each row, in fewer operations."""
        joint = self.joint(hidden).view(len(hidden), -1, self.width)
        turned, value = torch.split(joint, [self.heads + self.groups, self.groups], 1)
        if self.head_norm is not None:
            turned = self.head_norm(turned)
        turned = _rotated(turned, call.cosines, call.sines)
        query, key = torch.split(turned, [self.heads, self.groups], 1)
        keys, values = store(key, value)
        query = query.reshape(len(keys), -1, self.width)
        return attended_once(query, keys, values, call.mask, self.scaling).view(len(hidden), -1)

    def __call__(
        self, hidden: Float[Tensor, "n e"], size: torch.Size, call: _Call, store: Store
    ) -> Float[Tensor, "n e"]:
        """Return the hidden states after the layer.

        Args:
            hidden: those before it, of all rows after each other.
            size: the number of rows and of positions in each.
            call: what the layers share.
            store: keeps keys and values (b, groups, s, d), and returns those of all positions.
        """
        hidden = self.out.added(self.attention(self.before(hidden), size, call, store), hidden)
        gate, up = self.gates(self.after(hidden)).chunk(2, 1)
        return self.down.added(self.act(gate).mul_(up), hidden)


def _normed(norm: Any, linear: Sequence[Any], copies: Copies | None) -> tuple[_Norm, JointLinear]:
    """A norm and the linear layers after it; copies of their weights in float32 hold that of the norm."""
    narrow = {norm.weight.dtype, linear[0].weight.dtype} != {torch.float32}
    before = _Norm(norm, folded=copies is not None and not narrow)
    return before, JointLinear(linear, copies, factors=before.factors)


class PlainSlots(ModelSlots):
    """Slots of a plain decoder. Its weights are copied at the first use after :meth:`renew`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.cache = SlotCache(len(model.base_model.layers), turned=True)
        self.renew()

    def renew(self) -> None:
        """Forget what depends on the weights of the model."""
        self._angles: tuple[Tensor, Tensor] | None = None
        self._layers: list[_Layer] | None = None
        self._logits_of: Callable[[Tensor], Tensor]

    def prefill(
        self, embeddings: Float[Tensor, "s e"], slot: int, start: int, total: int, keep: int = 1
    ) -> Float[Tensor, "keep v"]:
        """Read a part of a prompt; see :class:`~hdvl.decoding.slots.Slots`."""
        count = len(embeddings)
        self.cache.read_slots(slot, 1, start, count)
        cosines, sines = (part[start : start + count] for part in self._rotation(embeddings))
        mask = None
        if start and count > 1:  # the last query sees all keys
            mask = torch.ones(count, start + count, dtype=torch.bool, device=embeddings.device)
            mask = mask.tril(start)[None, None]
        call = _Call(mask, not start and count > 1, cosines=cosines, sines=sines)
        return self._head(self._read(embeddings[None], call)[0, -keep:])

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
        hidden = self._read(rows, _Call(mask, cosines=cosines, sines=sines))
        return self._head(hidden[torch.arange(len(rows), device=rows.device), last])

    def decode(
        self, embeddings: Float[Tensor, "rows e"], lengths: list[int], shared: int = 0
    ) -> Float[Tensor, "rows v"]:
        """Read one token into each of the first slots; see :class:`~hdvl.decoding.slots.Slots`."""
        rows, longest = len(lengths), max(lengths)
        shared = shared if shared >= SHARED else 0
        mixed = longest != min(lengths)
        by_row = mixed and not shared and self._pays_by_row(lengths)
        call = _Call(shared=shared, single=self.cache.turned and not shared and not by_row)
        if not mixed:
            self.cache.read_slots(0, rows, longest, 1)
            angles = [part[longest : longest + 1] for part in self._rotation(embeddings)]
        else:
            places = torch.tensor(lengths, device=embeddings.device)
            self.cache.read_rows(places, longest + 1)
            angles = [part[places, None] for part in self._rotation(embeddings)]
            if not call.single:
                angles = [part[:, None] for part in angles]
            if by_row:
                call.lengths = [length + 1 for length in lengths]
            else:
                call.mask = self._mask(places, longest + 1, call.single, embeddings)
        call.cosines, call.sines = angles
        return self._head(self._read(embeddings[:, None], call)[:, 0])

    def _mask(self, places: Int[Tensor, " b"], size: int, single: bool, like: Tensor) -> Tensor:
        """What is added to the scores of one position of each row, as :class:`Attending` describes it."""
        unseen = torch.arange(size, device=places.device) > places[:, None, None]
        mask = like.new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
        groups: int = self.cache.stored[0][0].shape[1]
        return mask.repeat_interleave(groups, 0) if single else mask[:, None]

    def _pays_by_row(self, lengths: list[int]) -> bool:
        """Whether reading each row for itself takes less time than reading all up to the longest one."""
        unused = max(lengths) * len(lengths) - sum(lengths)
        bytes_per_layer = self.bytes_per_token // max(1, len(self.cache.stored))
        return unused * bytes_per_layer >= UNUSED * len(lengths)

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

    def _prepared(self) -> list[_Layer]:
        if self._layers is None:
            base, head = self.model.base_model, self.model.get_output_embeddings()
            linear = [one for one in base.layers.modules() if isinstance(one, nn.Linear)]
            # Under autocast weights are cast by the operations that read them.
            device = head.weight.device.type
            cast = torch.is_autocast_enabled(device)
            copies = None if cast else copies_for([*linear, head])
            self._layers = [_Layer(layer, copies) for layer in base.layers]
            self._final_norm, self._logits_of = (
                _normed(base.norm, [head], copies)
                if type(head) is nn.Linear
                else (_Norm(base.norm), head)
            )
        return self._layers

    def _read(self, hidden: Float[Tensor, "b s e"], call: _Call) -> Float[Tensor, "b s e"]:
        shape = hidden.shape
        store = self.cache.append if call.single else self.cache.update
        flat = hidden.reshape(-1, shape[2])  # products of matrices are quicker with two axes
        for index, layer in enumerate(self._prepared()):
            flat = layer(flat, shape[:2], call, partial(store, layer_idx=index))
        return flat.view(shape)

    def _head(self, hidden: Float[Tensor, "n e"]) -> Float[Tensor, "n v"]:
        return self._logits_of(self._final_norm(hidden))


def _rotated(
    part: Float[Tensor, "*b heads d"], cosines: Tensor, sines: Tensor
) -> Float[Tensor, "*b heads d"]:
    """Rotary embedding of the two halves of each head; the angles are (s, d) or (b, s, 1, d).

    ``sines`` have the sign of the turned halves: negative in the first one.
    """
    if cosines.ndim == 2:
        cosines, sines = cosines[:, None], sines[:, None]
    return torch.addcmul(part * cosines, part.roll(part.shape[-1] // 2, -1), sines)
