"""Preallocated keys and values of several sequences, each with a length of its own, for transformers.

transformers calls ``update`` once for each layer of a forward pass, and asks for the sizes of the mask
before.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from hdvl.llms.huge_pages import ALIGNED, HugePages

ROUND = 64
"""Lengths of slots are multiples of this number."""

TURNED = 64
"""Heads of at most this width are read faster in float32 if their keys are turned."""

PADDING = 16
"""Numbers between the rows of turned keys, so that a key is not written to places that share a set of the
CPU's caches, as multiples of 4 KiB do.
"""


class SlotCache:
    """Cache that keeps each sequence in a slot, a row of preallocated tensors.

    It has the members of a cache of transformers that models and the functions for masks use.

    A call reads the same number of new tokens into each of several slots. Either all of them hold the same
    number of positions (:meth:`read_slots`), or their lengths differ (:meth:`read_rows`).

    Args:
        layers: the number of layers, whose keys and values are allocated together.
        turned: whether keys in float32 of at most :data:`TURNED` numbers lie in memory with all positions of
            a number after each other. Their shape is the same.

    Attributes:
        count: the number of slots.
        length: the positions of each slot.
    """

    is_compileable = False

    def __init__(self, layers: int, *, turned: bool = False) -> None:
        self._layers, self._turned = layers, turned
        self._pages: HugePages | None = None
        self.count, self.length = 0, 0
        self.stored: list[tuple[Tensor, Tensor]] = []
        self._flat: list[tuple[Tensor, Tensor]] = []
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
        old = self.stored
        self.stored, self._flat, self._pages = [], [], None
        for pair in old:
            self._add_layer(*pair)
            for new, part in zip(self.stored[-1], pair, strict=True):
                new[: part.shape[0], :, : part.shape[2]] = part
        return True

    def release(self) -> None:
        """Free all slots."""
        self.count, self.length, self._pages = 0, 0, None
        self.stored, self._flat = [], []

    @property
    def bytes_per_token(self) -> int:
        """The bytes that one position takes in all layers; 0 before the first call."""
        return sum(
            part.shape[1] * part.shape[3] * part.element_size()
            for pair in self.stored
            for part in pair
        )

    def read_slots(self, first: int, rows: int, start: int, count: int) -> None:
        """Prepare for a call that reads ``count`` tokens into slots that hold ``start`` positions each.

        Args:
            first: the first slot.
            rows: the number of slots.
            start: the number of positions that each slot holds.
            count: the number of tokens.
        """
        self._rows, self._seen, self._size = slice(first, first + rows), start, start + count
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
        """Store new keys and values, and return those of all positions that the call may see.

        If these are the new ones alone, the given tensors are returned.
        """
        while len(self.stored) <= layer_idx:
            self._add_layer(key_states, value_states)
        keys, values = self.stored[layer_idx]
        if self._places is None:
            keys[self._rows, :, self._seen : self._size] = key_states
            values[self._rows, :, self._seen : self._size] = value_states
            if not self._seen:
                return key_states, value_states
        else:
            rows, places = self._places
            if rows.device != keys.device:  # layers may be on several devices
                rows, places = rows.to(keys.device), places.to(keys.device)
            keys[rows, :, places] = key_states.transpose(1, 2)
            values[rows, :, places] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._size], values[self._rows, :, : self._size]

    @property
    def turned(self) -> bool:
        """Whether keys are turned, see :class:`SlotCache`; false before the first call."""
        return bool(self._flat)

    def append(
        self,
        key_states: Float[Tensor, "b groups d"],
        value_states: Float[Tensor, "b groups d_v"],
        layer_idx: int,
    ) -> tuple[Tensor, Tensor]:
        """Store one new position of each row, as :meth:`update` does in more steps; keys must be turned.

        Returns:
            Keys (b * groups, d, k) and values (b * groups, k, d_v) of the k positions that the call may see.
        """
        keys, values = self.stored[layer_idx]
        if self._places is None:
            keys[self._rows, :, self._seen] = key_states
            values[self._rows, :, self._seen] = value_states
        else:
            rows, places = self._places
            keys[rows[:, 0], :, places[:, 0]] = key_states
            values[rows[:, 0], :, places[:, 0]] = value_states
        own = slice(*(edge * keys.shape[1] for edge in (self._rows.start, self._rows.stop)))
        flat_keys, flat_values = self._flat[layer_idx]
        return flat_keys[own, :, : self._size], flat_values[own, : self._size]

    def _add_layer(
        self,
        keys: Shaped[Tensor, "_b groups _s d"],
        values: Shaped[Tensor, "_b groups _s d_v"],
    ) -> None:
        """Allocate the slots of the next layer, for keys and values like these."""
        shapes = [
            (self.count, part.shape[1], self.length, part.shape[3]) for part in (keys, values)
        ]
        if self._pages is None:
            size = sum(map(math.prod, shapes)) + math.prod(shapes[0]) // self.length * PADDING
            size = size * keys.element_size() + 2 * ALIGNED
            self._pages = HugePages(self._layers * size, keys.device)
        if self._turned and keys.dtype == torch.float32 and keys.shape[3] <= TURNED:
            slots, groups, length, width = shapes[0]
            padded = (slots, groups, width, length + PADDING)
            own = self._pages.zeros(padded, keys)[..., :length].transpose(2, 3)
        else:
            own = self._pages.zeros(shapes[0], keys)
        self.stored.append((own, self._pages.zeros(shapes[1], values)))
        if own.stride(-1) != 1:
            self._flat.append((own.transpose(2, 3).flatten(0, 1), self.stored[-1][1].flatten(0, 1)))

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
