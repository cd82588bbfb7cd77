"""Continuous batching: sequences join and leave the batch at every step.

A step first prefills a part of the waiting prompts, then decodes one token of every running sequence in
one forward pass. Running sequences occupy the first slots; the sequence whose prompt is being read occupies
a slot after them.
"""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from hdvl.decoding.prefix_cache import PrefixCache, common_length
from hdvl.decoding.sequence import Sequence
from hdvl.decoding.slots import Slots, slots_of
from hdvl.protocols import LLM

FAULTS = (
    *(RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError, MemoryError, OSError),
)
"""Errors of a model or an option. They end only the sequences in which they occur."""

SHORT = 64
"""Prompts with at most this many positions left to read are read together, in one forward pass."""


class Scheduler:
    """Decodes sequences of one language model. It is not thread-safe; callers must hold a lock.

    Args:
        llm: the model, in evaluation mode.
        max_slots: the most sequences in a batch.
        max_tokens: the most positions of all slots together; ``None`` for no bound. Sequences wait
            until there is room.
        prefill_chunk: the most positions of prompts that one step reads.
        prefix_cache_bytes: the most bytes of keys and values of earlier prompts that are kept for new ones
            that begin with them.
        compile: compile decoding steps (on a CUDA device).

    Attributes:
        waiting: sequences that have no slot yet.
        running: sequences that are being decoded, by their slot.
        prefixes: the keys and values of earlier prompts.
        steps: the steps so far.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_slots: int = 8,
        max_tokens: int | None = None,
        prefill_chunk: int = 2048,
        prefix_cache_bytes: int = 0,
        compile: bool = False,
    ) -> None:
        for name, value in (("max_slots", max_slots), ("prefill_chunk", prefill_chunk)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1 or null, got {max_tokens}")
        self.llm, self.max_slots, self.max_tokens = llm, max_slots, max_tokens
        self.prefill_chunk, self.compile = prefill_chunk, compile
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.steps = 0
        self._slots: Slots | None = None
        self._reading: tuple[Sequence, int, int, Tensor] | None = None
        self._short: list[tuple[Sequence, int, Tensor]] = []
        self._room = (0, 0)
        self._compared: list[Sequence] = []
        self._common = 0

    @property
    def slots(self) -> Slots:
        """The slots, which are made at the first use."""
        if self._slots is None:
            slots = slots_of(self.llm)
            if self.compile:
                slots.compile()
            self._slots = slots
        return self._slots

    @property
    def active(self) -> int:
        """Slots in use."""
        return len(self.running) + len(self._short) + (self._reading is not None)

    @property
    def idle(self) -> bool:
        """Whether there are no unfinished sequences."""
        return not self.waiting and not self.active

    def add(self, sequence: Sequence) -> None:
        """Add ``sequence`` to the waiting sequences."""
        self.waiting.append(sequence)

    def run(self) -> None:
        """Step until all sequences are finished."""
        while self.step():
            pass

    def release(self) -> None:
        """Free the slots and the prefix cache; they are allocated again when they are needed."""
        if not self.active and self._slots is not None:
            self._slots.release()
            self._room = (0, 0)
        self.prefixes.clear()

    def renew(self) -> None:
        """Discard everything that was computed with earlier weights or modules of the model."""
        self.release()
        if not self.active:
            self._slots = None
        elif self._slots is not None:
            self._slots.renew()

    @torch.inference_mode()
    def step(self) -> bool:
        """Prefill a part of the waiting prompts, then decode one token of each running sequence.

        An error of one prompt ends its sequence. An error in the common forward pass ends all sequences
        of the batch.

        Returns:
            Whether there are unfinished sequences.
        """
        self._drop_cancelled()
        complete = False
        try:
            self._prefill()
            if self.running:
                self._decode()
            complete = True
        except FAULTS as error:
            self._fail(error)
            complete = True
        finally:
            if not complete:  # such as KeyboardInterrupt
                self._fail(InterruptedError("the engine was interrupted while it answered"))
        self.steps += 1
        return not self.idle

    def _drop_cancelled(self) -> None:
        kept = deque[Sequence]()
        for sequence in self.waiting:
            sequence.finish("cancelled") if sequence.cancelled else kept.append(sequence)
        self.waiting = kept
        for sequence in self.running:
            if sequence.cancelled:
                sequence.finish("cancelled")
        self._leave()
        if self._reading is not None and self._reading[0].cancelled:
            self._reading[0].finish("cancelled")
            self._reading = None

    def _fail(self, error: Exception) -> None:
        for sequence in self.running:
            sequence.finish("error", error)
        if self._reading is not None:
            self._reading[0].finish("error", error)
        for sequence, *_ in self._short:
            sequence.finish("error", error)
        self.running, self._reading, self._short = [], None, []

    def _prefill(self) -> None:
        left = self.prefill_chunk
        while left > 0 and (self._reading is not None or self._admit()):
            assert self._reading is not None
            sequence, slot, start, rest = self._reading
            if self.slots.reusable and sequence.targets is None and len(rest) <= SHORT:
                # Slots before its own have become free if sequences have finished since it was begun.
                if slot != (next_slot := len(self.running) + len(self._short)):
                    self.slots.move(slot, next_slot, start)
                self._short.append((sequence, start, rest))
                self._reading, left = None, left - len(rest)
                continue
            self._read_short()
            try:
                left -= self._read_part(left)
            except FAULTS as error:
                sequence.finish("error", error)
                self._reading = None
        self._read_short()

    def _read_short(self) -> None:
        """Read the short ends of waiting prompts together, and sample the first new id after each."""
        short, first = self._short, len(self.running)
        if not short:
            return
        try:
            logits = list(
                self.slots.prefill_rows(
                    [rest for *_, rest in short], first, [start for _, start, _ in short]
                )
            )
        except FAULTS:  # an error of one prompt must not end the others
            logits = [self._read_alone(*one, first + row) for row, one in enumerate(short)]
        self._short = []
        read = [(row, one[0]) for row, one in enumerate(short) if not one[0].done]
        for row, sequence in read:
            self._store(sequence, first + row)
        for row, sequence in read:
            self._first_token(sequence, first + row, logits[row])

    def _read_alone(self, sequence: Sequence, start: int, rest: Tensor, slot: int) -> Tensor:
        try:
            return self.slots.prefill(rest, slot, start, sequence.prompt.length)[0]
        except FAULTS as error:
            sequence.finish("error", error)
            return rest.new_empty(0)

    def _first_token(self, sequence: Sequence, slot: int, logits: Tensor) -> None:
        """Choose the id after a prompt; the sequence is then running, in the next slot."""
        try:
            sequence.append(*sequence.sampler.choose(logits))
        except FAULTS as error:
            sequence.finish("error", error)
        if not sequence.done:
            if slot != len(self.running):
                self.slots.move(slot, len(self.running), sequence.prompt.length)
            self.running.append(sequence)

    def _admit(self) -> bool:
        """Give the next waiting sequence a slot, and copy the cached prefix of its prompt into it."""
        while self.waiting:
            if self.active >= self.max_slots:
                return False
            sequence = self.waiting[0]
            try:
                if not self._has_room(sequence):
                    return False
                self.waiting.popleft()
                self._begin(sequence)
                return True
            except FAULTS as error:
                if self.waiting and self.waiting[0] is sequence:
                    self.waiting.popleft()
                sequence.finish("error", error)
        return False

    def _has_room(self, sequence: Sequence) -> bool:
        """Reserve a slot for ``sequence``, if memory allows.

        Raises:
            ValueError: the prompt fills the context, or is longer than the largest slot.
        """
        prompt, context = sequence.prompt.length, self.llm.context
        scoring = sequence.targets is not None
        if not scoring and context is not None:
            if prompt >= context:
                raise ValueError(
                    "a prompt must leave room in the context of the language model, "
                    f"{context} ids, got {prompt}"
                )
            sequence.limit = min(sequence.limit, context - prompt)
        needed = prompt + (0 if scoring else sequence.limit)
        count, length = self._room
        if not self.active and self.max_tokens is not None and count * length > self.max_tokens:
            self.slots.release()
            count = length = 0
        length, count = max(length, needed), max(count, self.active + 1)
        if self.max_tokens is not None and count * length > self.max_tokens:
            if self.active:
                return False
            if needed > self.max_tokens:
                raise ValueError(
                    f"a prompt and its answer must fit the {self.max_tokens} positions of the engine's "
                    f"cache, got {prompt} and up to {sequence.limit} new ids; use fewer tiles, lower "
                    "max_new_tokens or raise max_tokens"
                )
            self.slots.release()
            length, count = needed, 1
        # Growing copies the slots, so they grow once for all waiting sequences.
        others = [one for one in self.waiting if one is not sequence][: self.max_slots - count]
        wanted = count + len(others)
        longest = max([length, *(one.prompt.length + one.limit for one in others)])
        if self.max_tokens is None or wanted * longest <= self.max_tokens:
            count, length = wanted, longest
        self.slots.reserve(count, length)
        self._room = count, length
        return True

    def _begin(self, sequence: Sequence) -> None:
        slot, start = self.active, 0
        keys = sequence.prompt.keys
        if keys is not None and self.prefixes.limit and self.slots.reusable:
            least = 1 if sequence.targets is None else len(sequence.targets)
            for count, parts in self.prefixes.lookup(keys, sequence.prompt.length - least):
                self.slots.copy_in(slot, start, parts)
                start += count
        sequence.cached_tokens = start
        self._reading = sequence, slot, start, sequence.prompt.embeddings(start)

    def _read_part(self, most: int) -> int:
        """Read up to ``most`` positions of the prompt, and the first new id after the last ones."""
        assert self._reading is not None
        sequence, slot, start, rest = self._reading
        keep = 1 if sequence.targets is None else len(sequence.targets)
        # A cache of the model's own class may not support reading a prompt in several parts.
        count = min(most, len(rest)) if self.slots.reusable else len(rest)
        if count < len(rest):  # positions that are scored are read in a single part
            count = min(count, max(len(rest) - keep, 0)) or len(rest)
        total, last = sequence.prompt.length, count == len(rest)
        logits = self.slots.prefill(rest[:count], slot, start, total, keep if last else 1)
        self._reading = (sequence, slot, start + count, rest[count:])
        if last:
            self._reading = None
            self._store(sequence, slot)
            if sequence.targets is not None:
                sequence.score(logits)
                return count
            self._first_token(sequence, slot, logits[0])
        return count

    def _store(self, sequence: Sequence, slot: int) -> None:
        """Add the keys and values in ``slot`` to the prefix cache."""
        keys = sequence.prompt.keys
        if keys is None or not self.prefixes.limit or not self.slots.reusable:
            return
        if sequence.ids[:-1]:
            new = np.zeros((len(sequence.ids) - 1, 2), np.int64)
            new[:, 0] = sequence.ids[:-1]
            keys = np.concatenate([keys, new])
        start = self.prefixes.known(keys)
        self.prefixes.insert(keys, start, self.slots.copy_out(slot, start, len(keys)))

    def _decode(self) -> None:
        sequences = self.running
        device = self.llm.embedding_layers()[0].weight.device
        newest = torch.tensor([sequence.ids[-1] for sequence in sequences], device=device)
        lengths = [sequence.length for sequence in sequences]
        logits = self.slots.decode(self.llm.embed(newest[None])[0], lengths, self._shared())
        likeliest: list[int] | None = None
        for row, sequence in enumerate(sequences):
            if sequence.sampler.params.plain:
                likeliest = logits.argmax(-1).tolist() if likeliest is None else likeliest
                sequence.append(likeliest[row], None)
                continue
            try:
                sequence.append(*sequence.sampler.choose(logits[row]))
            except FAULTS as error:
                sequence.finish("error", error)
        self._leave()

    def _shared(self) -> int:
        """The number of first positions that the prompts of all running sequences have in common."""
        if self.running != self._compared:
            keys = [sequence.prompt.keys for sequence in self.running]
            self._compared, self._common = list(self.running), common_length(keys)
        return self._common

    def _leave(self) -> None:
        """Free the slots of finished sequences; the last sequences move into the gaps."""
        for slot in reversed(range(len(self.running))):
            sequence = self.running[slot]
            if not sequence.done:
                continue
            if sequence.finish_reason in ("stop", "length"):
                self._store(sequence, slot)
            last = self.running.pop()
            if last is not sequence:
                self.slots.move(len(self.running), slot, last.length)
                self.running[slot] = last
