"""Several sources in fixed shares: which sample stands at which position follows from the seed alone."""

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
"""Most positions until a pattern of sources repeats: weights of five digits."""


@runtime_checkable
class Ordered(Protocol):
    """Conversations with an order of their own: from a position to the index of a conversation."""

    def order(self, seed: int, *, shuffle: bool = True) -> Callable[[int], int]: ...


class Mixture:
    """Sources behind each other, and :meth:`index`, an order in which each has its share.

    Args:
        sources: name -> what gives its conversations for ``boxes=``.
        weights: name -> a number above 0; the share of a source is its part of their sum.
        boxes: how boxes are written.

    Raises:
        ValueError: other names, a weight of 0 or below, or weights of more digits than a pattern holds.
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
        """Conversation number ``index`` of all sources behind each other."""
        source, place = self._find(index)
        return source[place]

    def name(self, index: int) -> str:
        """What errors call conversation ``index``."""
        return name_of(*self._find(index))

    def order(self, seed: int, *, shuffle: bool = True) -> Callable[[int], int]:
        """From a position in the training to the index of its conversation; any position, at once.

        Position p is of source ``pattern[p % len(pattern)]``, and the sources' own samples come in
        shuffled epochs, each sample once an epoch. A source's order depends on its name and the
        seed, not on the others.
        """
        counts = [self.pattern.count(number) for number in range(len(self._sources))]
        # How often the source at each place of the pattern stood before it in the pattern.
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
        """What the order follows from, beside the seed: kept in checkpoints."""
        counts = [self.pattern.count(number) for number in range(len(self._sources))]
        shares = dict(zip(self.sources, counts, strict=True))
        return {"shares": shares, "rows": {n: len(source) for n, source in self.sources.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A run goes on with the sources and shares it was begun with.

        Raises:
            ValueError: they are others.
        """
        if state != self.state_dict():
            raise ValueError(
                f"a mixture must go on as it was begun, {state}, got {self.state_dict()}; begin anew "
                "from the run's weights with init_from"
            )

    def _find(self, index: int) -> tuple[Conversations, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"conversation {index} is not in 0..{len(self) - 1}")
        number = bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


def interleave(weights: list[float]) -> list[int]:
    """The shortest sequence in which number i stands as often as ``weights[i]`` says, evenly spread.

    Each place goes to the number whose next turn is due first (due dates (2k + 1) / (2 share), the
    quota rule of Sainte-Laguë), so that any stretch holds each number within two of its share, and any
    whole repetition exactly.

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
