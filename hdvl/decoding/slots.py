"""Slots: the keys and values (or other states) of the sequences that are decoded together."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.protocols import LLM, Cache

logger = logging.getLogger("hdvl.decoding")


@runtime_checkable
class Slots(Protocol):
    """The states of several sequences, each in a slot of its own.

    * ``reusable``: whether ``copy_out`` and ``copy_in`` work, which the prefix cache needs, and
      whether a prompt may be read in several parts.
    * ``renew``: discards what was computed from the weights of the model, except the states of the sequences.
    * ``compile``: compiles decoding steps, or raises a ``ValueError`` with the reason why it cannot.
    * ``reserve``: allocates a number of slots of a length; their contents are kept.
    * ``prefill``: reads a part of a prompt of length ``total`` into a slot that holds ``start`` positions
      of it, and returns the logits (keep, v) of the last ``keep`` positions of the part.
    * ``prefill_rows``: reads the ends of several prompts into the slots from ``first`` on, which hold
      ``starts`` positions of them, and returns the logits (rows, v) after each.
    * ``decode``: reads one embedding (rows, e) into each of the first slots, which hold ``lengths``
      positions, and returns the logits (rows, v). The first ``shared`` positions of all of them are the
      same, so that an implementation may read them once.
    * ``move``: copies the first ``length`` positions of a slot to another one.
    """

    @property
    def reusable(self) -> bool: ...
    @property
    def bytes_per_token(self) -> int: ...
    def renew(self) -> None: ...
    def compile(self) -> None: ...
    def reserve(self, count: int, length: int) -> None: ...
    def release(self) -> None: ...
    def prefill(
        self, embeddings: Float[Tensor, "s e"], slot: int, start: int, total: int, keep: int = 1
    ) -> Float[Tensor, "keep v"]: ...
    def prefill_rows(
        self, parts: Sequence[Float[Tensor, "_s e"]], first: int, starts: list[int]
    ) -> Float[Tensor, "rows v"]: ...
    def decode(
        self, embeddings: Float[Tensor, "rows e"], lengths: list[int], shared: int = 0
    ) -> Float[Tensor, "rows v"]: ...
    def copy_out(self, slot: int, start: int, end: int) -> list[Tensor]: ...
    def copy_in(self, slot: int, start: int, parts: list[Tensor]) -> None: ...
    def move(self, source: int, target: int, length: int) -> None: ...


@runtime_checkable
class HasSlots(Protocol):
    """Language model that can decode several sequences together.

    ``new_slots`` returns empty slots, or the reason why this model has none.
    """

    def new_slots(self) -> Slots | str: ...


def slots_of(llm: LLM) -> Slots:
    """Return slots for ``llm``: its own, or one cache of the model for each sequence.

    The log says once why a model reads its sequences one by one.
    """
    found = llm.new_slots() if isinstance(llm, HasSlots) else "its class has no slots"
    if not isinstance(found, str):
        return found
    _note("sequences are decoded one by one, each on a cache of its own, because %s", found)
    return OwnCaches(llm)


@cache
def _note(message: str, reason: str) -> None:
    logger.warning(message, reason)


class OwnCaches:
    """Slots that are caches of :meth:`LLM.new_cache`, read one after the other.

    A model without a cache computes the whole sequence again for each new token.
    """

    reusable, bytes_per_token = False, 0

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self._caches: dict[int, Cache | None] = {}
        self._read: dict[int, Tensor] = {}

    def renew(self) -> None:
        """Do nothing; each call reads the weights of the model."""

    def compile(self) -> None:
        """Raise, because the shapes of these caches grow with each step."""
        raise ValueError(
            "sequences that are decoded one by one cannot be compiled; set compile=False"
        )

    def reserve(self, count: int, length: int) -> None:
        """Do nothing; the caches grow by themselves."""

    def release(self) -> None:
        """Free all slots."""
        self._caches, self._read = {}, {}

    def prefill(
        self, embeddings: Float[Tensor, "s e"], slot: int, start: int, total: int, keep: int = 1
    ) -> Float[Tensor, "keep v"]:
        """Read a part of a prompt; see :class:`Slots`."""
        if start == 0:
            self._caches[slot] = _new_cache(self.llm, total)
            self._read.pop(slot, None)
        past = self._caches[slot]
        given = embeddings[None]
        if past is None:
            before = [self._read[slot]] if start else []
            given = self._read[slot] = torch.cat([*before, given], 1)
        last = given.shape[1]
        places = torch.arange(last - keep, last, device=given.device)
        options: dict[str, Any] = {} if past is None else {"cache": past}
        return self.llm(given, logits_to_keep=places, **options)[0]

    def prefill_rows(
        self, parts: Sequence[Float[Tensor, "_s e"]], first: int, starts: list[int]
    ) -> Float[Tensor, "rows v"]:
        """Read the ends of several prompts one after the other; see :class:`Slots`."""
        found = [
            self.prefill(part, first + row, starts[row], starts[row] + len(part))
            for row, part in enumerate(parts)
        ]
        return torch.cat(found)

    def decode(
        self, embeddings: Float[Tensor, "rows e"], lengths: list[int], shared: int = 0
    ) -> Float[Tensor, "rows v"]:
        """Read one token into each slot; see :class:`Slots`."""
        rows = [
            self.prefill(embeddings[slot : slot + 1], slot, length, length + 1)
            for slot, length in enumerate(lengths)
        ]
        return torch.cat(rows)

    def copy_out(self, slot: int, start: int, end: int) -> list[Tensor]:
        """Raise, because these slots cannot be copied."""
        raise TypeError("caches of the model cannot be copied in parts")

    def copy_in(self, slot: int, start: int, parts: list[Tensor]) -> None:
        """Raise, because these slots cannot be copied."""
        raise TypeError("caches of the model cannot be copied in parts")

    def move(self, source: int, target: int, length: int) -> None:
        """Give the cache of slot ``source`` to slot ``target``."""
        self._caches[target] = self._caches.pop(source)
        if source in self._read:
            self._read[target] = self._read.pop(source)


def _new_cache(llm: LLM, total: int) -> Cache | None:
    try:
        return llm.new_cache([total])
    except ValueError as error:
        _note("the whole text is read again for each new token, because %s", str(error))
        return None
