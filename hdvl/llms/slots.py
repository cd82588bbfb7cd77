"""Reading prompts and decoding in slots, with the forward pass of a model of transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hdvl.llms.cuda_graphs import GraphedSteps
from hdvl.llms.slot_cache import SlotCache

_PLAIN = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Layers of transformers' cache that hold nothing but keys and values of positions."""


def holds_keys_only(model: Any) -> bool:
    """Whether all that ``model`` keeps of a text is keys and values of its positions."""
    from transformers import DynamicCache

    if not model._supports_default_dynamic_cache() or model.config.is_encoder_decoder:
        return False
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return {type(layer).__name__ for layer in cache.layers} <= _PLAIN


class ModelSlots:
    """Slots of a causal language model of transformers, see :class:`~hdvl.llms.slot_cache.SlotCache`.

    Args:
        model: the model. Its attention must be one whose masks hdvl makes
            (:func:`~hdvl.llms.segments.use_segments`).
    """

    reusable = True

    def __init__(self, model: Any) -> None:
        layers: int = model.config.get_text_config(decoder=True).num_hidden_layers
        self.model, self.cache = model, SlotCache(layers)
        # Made at the first step on a GPU: it holds these slots, and a cycle would keep the copied weights
        # of a CPU in memory until the next garbage collection.
        self._graphs: GraphedSteps | None = None

    @property
    def bytes_per_token(self) -> int:
        """The bytes that one position takes; 0 before the first call."""
        return self.cache.bytes_per_token

    def reserve(self, count: int, length: int) -> None:
        """Make room for ``count`` slots of ``length`` positions."""
        if self.cache.reserve(count, length):
            self._clear_graphs()

    def renew(self) -> None:
        """Read the weights of the model again, which may have changed; here each call does."""

    def compile(self) -> None:
        """Compile decoding steps by ``torch.compile``: fewer and larger kernels, for a minute at first use.

        Raises:
            ValueError: the model is not on a CUDA device, where alone this is faster.
        """
        if not next(self.model.parameters()).is_cuda:
            raise ValueError("compiled decoding needs a CUDA device; set compile=False")
        self._graphs = GraphedSteps(torch.compile(self._decode_rows, fullgraph=True))

    def release(self) -> None:
        """Free all slots."""
        self._clear_graphs()
        self.cache.release()

    def _clear_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()

    def prefill(
        self, embeddings: Float[Tensor, "s e"], slot: int, start: int, total: int, keep: int = 1
    ) -> Float[Tensor, "keep v"]:
        """Read a part of a prompt into ``slot``, and return the logits of its last ``keep`` positions.

        Args:
            embeddings: the part.
            slot: the slot.
            start: the number of positions of the prompt that the slot holds already.
            total: the length of the whole prompt.
            keep: the number of positions whose logits are computed, at least 1.
        """
        count = len(embeddings)
        self.cache.read_slots(slot, 1, start, count)
        places = torch.arange(start, start + count, device=embeddings.device)
        return self._logits(embeddings[None], places[None], keep)[0]

    def prefill_rows(
        self, parts: Sequence[Float[Tensor, "_s e"]], first: int, starts: list[int]
    ) -> Float[Tensor, "rows v"]:
        """Read the ends of several prompts together, and return the logits after each.

        Shorter ends are padded on the right; the positions after them are overwritten by later tokens,
        and no token sees it before.

        Args:
            parts: the ends.
            first: the slot of the first one; the others follow.
            starts: the number of positions that each slot holds already.
        """
        lengths = [len(part) for part in parts]
        rows, count = pad_sequence(list(parts), batch_first=True), max(lengths)
        size = max(starts) + count
        if size > self.cache.length:  # there is no room for the padding
            return torch.cat(
                [
                    self.prefill(part, first + row, starts[row], starts[row] + len(part))
                    for row, part in enumerate(parts)
                ]
            )
        places = torch.tensor(starts, device=rows.device)
        self.cache.read_rows(places, size, first=first, count=count)
        last = torch.tensor([length - 1 for length in lengths], device=rows.device)
        return self._last_logits(rows, places, last, size)

    def _last_logits(
        self,
        rows: Float[Tensor, "b s e"],
        places: Int[Tensor, " b"],
        last: Int[Tensor, " b"],
        size: int,
    ) -> Float[Tensor, "b v"]:
        """Return the logits of position ``last`` of each row."""
        positions = places[:, None] + torch.arange(rows.shape[1], device=rows.device)
        kept, own = torch.unique(last, return_inverse=True)
        return self._logits(rows, positions, kept)[torch.arange(len(rows), device=rows.device), own]

    def decode(
        self, embeddings: Float[Tensor, "rows e"], lengths: list[int], shared: int = 0
    ) -> Float[Tensor, "rows v"]:
        """Read one token into each of the first slots, and return the logits after it.

        Args:
            embeddings: the tokens.
            lengths: the number of positions that each slot holds already.
            shared: the number of first positions that all of these slots hold the same of, which is not
                used here.
        """
        if embeddings.is_cuda:
            if self._graphs is None:
                self._graphs = GraphedSteps(self._decode_rows)
            return self._graphs(embeddings, lengths, self.cache.length)
        if len(lengths) == 1:  # needs no mask
            return self.prefill(embeddings, 0, lengths[0], lengths[0] + 1)
        places = torch.tensor(lengths, device=embeddings.device)
        return self._decode_rows(embeddings, places, max(lengths) + 1)

    def _decode_rows(
        self, embeddings: Float[Tensor, "rows e"], places: Int[Tensor, " rows"], size: int
    ) -> Float[Tensor, "rows v"]:
        self.cache.read_rows(places, size)
        return self._logits(embeddings[:, None], places[:, None], 1)[:, 0]

    def _logits(self, embeddings: Tensor, places: Tensor, keep: int | Tensor) -> Tensor:
        logits: Tensor = self.model(
            inputs_embeds=embeddings,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits

    def copy_out(self, slot: int, start: int, end: int) -> list[Tensor]:
        """Return a copy of what positions ``start`` to ``end`` of ``slot`` hold."""
        return self.cache.copy_out(slot, start, end)

    def copy_in(self, slot: int, start: int, parts: list[Tensor]) -> None:
        """Write what :meth:`copy_out` returned into ``slot`` from position ``start`` on."""
        self.cache.copy_in(slot, start, parts)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of slot ``source`` to slot ``target``."""
        self.cache.move(source, target, length)
