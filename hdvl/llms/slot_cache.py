"""Preallocated keys and values of several sequences, each with a length of its own, for transformers.

transformers calls ``update`` once for each layer of a forward pass, and asks for the sizes of the mask
before.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

ROUND = 64
"""Lengths of slots are multiples of this number."""


class SlotCache:
    """Cache that keeps each sequence in a slot, a row of preallocated tensors.

    It has the members of a cache of transformers that models and the functions for masks use.

    A call reads either one slot, from any position on (:meth:`read_slot`), or the same number of new tokens
    for each of several slots, whose lengths may differ (:meth:`read_rows`).

    Attributes:
        count: the number of slots.
        length: the positions of each slot.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.count, self.length = 0, 0
        self.stored: list[tuple[Tensor, Tensor]] = []
        self._rows, self._seen, self._size = slice(0, 1), 0, 0
        self._starts: Tensor | None = None
        self._places: tuple[Tensor, Tensor] | None = None

    def reserve(self, count: int, length: int) -> bool:
        """Make room for ``count`` slots of ``length`` positions; their contents are kept.

        Returns:
            Whether the slots have moved in memory.
        """
        length = -(-length // ROUND) * ROUND
        if count <= self.count and length <= self.length:
            return False
        self.count, self.length = max(count, self.count), max(length, self.length)
        self.stored = [(self._grown(keys), self._grown(values)) for keys, values in self.stored]
        return True

    def _grown(self, old: Shaped[Tensor, "slots groups s d"]) -> Tensor:
        slots, groups, length, width = old.shape
        new = old.new_zeros(self.count, groups, self.length, width)
        new[:slots, :, :length] = old
        return new

    def release(self) -> None:
        """Free all slots."""
        self.count, self.length, self.stored = 0, 0, []

    @property
    def bytes_per_token(self) -> int:
        """The bytes that one position takes in all layers; 0 before the first call."""
        return sum(
            part.shape[1] * part.shape[3] * part.element_size()
            for pair in self.stored
            for part in pair
        )

    def read_slot(self, slot: int, start: int, count: int) -> None:
        """Prepare for a call that reads ``count`` tokens into ``slot`` after its first ``start``."""
        self._rows, self._seen, self._size = slice(slot, slot + 1), start, start + count
        self._starts = self._places = None

    def read_rows(
        self, lengths: Int[Tensor, " rows"], size: int, *, first: int = 0, count: int = 1
    ) -> None:
        """Prepare for a call that reads ``count`` tokens into each of several slots.

        Args:
            lengths: the number of tokens that each slot holds.
            size: the number of positions to attend to, at least the largest of them and ``count``.
            first: the first slot.
            count: the number of tokens.
        """
        rows = len(lengths)
        self._rows, self._seen, self._size = slice(first, first + rows), size - count, size
        self._starts = lengths
        slots = torch.arange(first, first + rows, device=lengths.device)[:, None]
        self._places = slots, lengths[:, None] + torch.arange(count, device=lengths.device)

    def update(
        self,
        key_states: Float[Tensor, "b groups s d"],
        value_states: Float[Tensor, "b groups s d_v"],
        layer_idx: int,
        *args: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values, and return those of all positions that the call may see."""
        while len(self.stored) <= layer_idx:
            self.stored.append((self._empty(key_states), self._empty(value_states)))
        keys, values = self.stored[layer_idx]
        if self._places is None:
            keys[self._rows, :, self._seen : self._size] = key_states
            values[self._rows, :, self._seen : self._size] = value_states
        else:
            # Layers may be on several devices.
            rows, places = (part.to(keys.device) for part in self._places)
            keys[rows, :, places] = key_states.transpose(1, 2)
            values[rows, :, places] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._size], values[self._rows, :, : self._size]

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.count, like.shape[1], self.length, like.shape[3])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions before those of the call; of the longest slot if several."""
        return self._seen

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """Return the position of the first query: a number, or one for each row."""
        return self._seen if self._starts is None else self._starts

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of keys, and the position of the first one."""
        return self._size, 0

    def copy_out(self, slot: int, start: int, end: int) -> list[Tensor]:
        """Return copies of the keys and values of positions ``start`` to ``end`` of ``slot``."""
        return [part[slot, :, start:end].clone() for pair in self.stored for part in pair]

    def copy_in(self, slot: int, start: int, parts: list[Tensor]) -> None:
        """Write what :meth:`copy_out` returned into ``slot`` from position ``start`` on."""
        own = [part for pair in self.stored for part in pair]
        for part, given in zip(own, parts, strict=True):
            part[slot, :, start : start + given.shape[1]] = given

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of slot ``source`` to slot ``target``."""
        for pair in self.stored:
            for part in pair:
                part[target, :, :length] = part[source, :, :length]
