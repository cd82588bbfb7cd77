"""Mixes several sources in fixed shares. The sample at each position depends on the seed only."""

import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from copy import copy
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any, Protocol, runtime_checkable

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.order import GlobalOrder
from hdvl.protocols import BoxCodec, Conversation

LONGEST = 100_000
"""The longest pattern of sources, which allows weights of five digits."""


@runtime_checkable
class Ordered(Protocol):
    """Conversations that define their own order, a function from positions to indices of conversations."""

    def order(self, seed: int, *, shuffle: bool = True) -> Callable[[int], int]: ...


class Mixture:
    """The concatenation of sources, with an :meth:`order` in which each source has its share.

    Args:
        sources: name -> a function of ``boxes=`` that returns the conversations.
        weights: name -> a number above 0. The share of a source is its weight divided by the sum.
        boxes: the codec of boxes.

    Raises:
        ValueError: the names differ, a weight is not above 0, or the pattern of the weights is too long.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Callable[..., Conversations]],
        weights: Mapping[str, float],
        boxes: BoxCodec | None = None,
    ) -> None:
        if not sources or sources.keys() != weights.keys():
            raise ValueError(
                f"weights must name the sources {sorted(sources)}, got {sorted(weights)}"
            )
        self.pattern = interleave(list(weights.values()))
        self._set_sources({name: source(boxes=boxes) for name, source in sources.items()})

    def with_sources(self, sources: Mapping[str, Conversations]) -> "Mixture":
        """The same mixture of other sources of the same names."""
        changed = copy(self)
        changed._set_sources(sources)
        return changed

    def _set_sources(self, sources: Mapping[str, Conversations]) -> None:
        self.sources = dict(sources)
        self._sources = list(self.sources.values())
        self._ends = list(accumulate(map(len, self._sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Conversation:
        """Conversation number ``index`` of the concatenated sources."""
        source, place = self._find(index)
        return source[place]

    def name(self, index: int) -> str:
        """The name of conversation ``index`` in errors."""
        return name_of(*self._find(index))

    def order(self, seed: int, *, shuffle: bool = True) -> Callable[[int], int]:
        """A function from a position in training to the index of the conversation at this position.

        Position p belongs to source ``pattern[p % len(pattern)]``. The samples of each source come in
        shuffled epochs, each sample once per epoch. The order within a source depends on its name and the
        seed, not on the other sources. Positions can be looked up in any order.
        """
        counts = [self.pattern.count(number) for number in range(len(self._sources))]
        # For each place of the pattern, the number of earlier places of the same source.
        before, seen = list[int](), [0] * len(counts)
        for number in self.pattern:
            before.append(seen[number])
            seen[number] += 1
        orders = [
            GlobalOrder(
                len(source),
                seed=zlib.crc32(f"{seed}/{name}".encode()),
                stop=2**62,
                shuffle=shuffle,
            )
            for name, source in self.sources.items()
        ]

        def index(position: int) -> int:
            round_, place = divmod(position, len(self.pattern))
            number = self.pattern[place]
            start = self._ends[number - 1] if number else 0
            return start + orders[number].index(round_ * counts[number] + before[place])

        return index

    def state_dict(self) -> dict[str, Any]:
        """The shares and lengths of the sources, on which the order depends besides the seed."""
        counts = [self.pattern.count(number) for number in range(len(self._sources))]
        shares = dict(zip(self.sources, counts, strict=True))
        return {"shares": shares, "rows": {n: len(source) for n, source in self.sources.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the sources and shares are those of the resumed run.

        Raises:
            ValueError: they differ.
        """
        if state != self.state_dict():
            raise ValueError(
                f"a run must be resumed with the mixture it was started with, {state}, got "
                f"{self.state_dict()}; start a new run from its weights with init_from"
            )

    def _find(self, index: int) -> tuple[Conversations, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"conversation {index} is not in 0..{len(self) - 1}")
        number = bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


def interleave(weights: list[float]) -> list[int]:
    """The shortest sequence in which the frequencies of the numbers are ``weights``, evenly spread.

    Each place goes to the number that is due first; turn k of a number is due at (2k + 1) / (2 share), which
    is the rule of Sainte-Laguë. In any part of the repeated sequence, each number occurs within two of its
    share, and exactly by its share in whole repetitions.

    >>> interleave([2, 1])
    [0, 1, 0]
    """
    if any(not weight > 0 or weight == float("inf") for weight in weights):
        raise ValueError(f"weights must be above 0, got {weights}")
    shares = [Fraction(str(weight)) for weight in weights]
    shares = [share / sum(shares) for share in shares]
    length = lcm(*(share.denominator for share in shares))
    if length > LONGEST:
        raise ValueError(
            f"weights must repeat within {LONGEST:,} positions, {weights} take {length:,}; round them"
        )
    counts = [int(share * length) for share in shares]
    turns = [
        (Fraction(2 * turn + 1, 2 * count), number)
        for number, count in enumerate(counts)
        for turn in range(count)
    ]
    return [number for _, number in sorted(turns)]
