"""Packs several samples into one row, within a budget of tokens and of tiles.

The sequence of packs depends only on the order of the samples, their sizes and the budget. The numbers of
ranks and of accumulated batches only determine which rank computes which packs: an optimizer step takes the
next ``world * accumulate`` packs. Samples are never split, and each is packed once per epoch.

One window of samples is packed at a time, in the order of decreasing size. Each sample goes to the pack that
lacks most of what the sample has (the dot-product heuristic of vector bin packing, Panigrahy et al. 2011), so
that the packs of a window become similar in tokens and in tiles. Samples that do not fit are packed with the
next window; at the end of an epoch, all are packed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import Sampler

from hdvl.data.order import GlobalOrder
from hdvl.data.sizes import Size


@dataclass(frozen=True)
class Budget:
    """The largest numbers of ``tokens`` and ``tiles`` of a pack; ``window`` samples are packed at a time."""

    tokens: int
    tiles: int
    window: int = 512

    def __post_init__(self) -> None:
        for name in ("tokens", "tiles", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"packing.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pack:
    """The samples that share a row, and their total size."""

    indices: tuple[int, ...]
    size: Size


@runtime_checkable
class SizeTable(Protocol):
    """Provides the sizes of samples; ``prefetch`` announces those that will be needed next."""

    def of(self, indices: Sequence[int]) -> list[Size]: ...
    def prefetch(self, indices: Sequence[int]) -> None: ...


def fill(
    sizes: Sequence[Size], budget: Budget, *, waiting: int = 0, flush: bool = False
) -> tuple[list[list[int]], list[int]]:
    """Distribute the indices of ``sizes`` to packs of similar size; returns packs and indices left over.

    The first ``waiting`` samples are packed before the others. With ``flush``, none is left over.
    """
    caps, items = np.array([budget.tokens, budget.tiles]), np.array(sizes)
    need = float((items.sum(0) / caps).max())
    count = int(np.ceil(need)) if flush else int(need)
    if not count:
        return [], list(range(len(sizes)))
    target = np.clip(items.sum(0) / count, 1, caps)
    shares = items / target
    order = sorted(range(len(sizes)), key=lambda i: (i >= waiting, -shares[i].max(), i))
    loads, packs = np.zeros((count, 2), dtype=np.int64), [list[int]() for _ in range(count)]
    left = []
    for i in order:
        fits = (loads + items[i] <= caps).all(1)
        if fits.any():
            lacks = (1 - loads / target) @ shares[i]
            best = int(np.where(fits, lacks, -np.inf).argmax())
        elif flush:
            best = len(packs)
            loads, packs = np.vstack([loads, np.zeros(2, np.int64)]), [*packs, []]
        else:
            left.append(i)
            continue
        loads[best] += items[i]
        packs[best].append(i)
    # Neighbours go to the ranks of one step, which wait less for each other if their packs are similar.
    packs.sort(key=lambda pack: tuple(items[pack].sum(0)[::-1]))
    return [sorted(pack) for pack in packs], sorted(left)


class Packs:
    """The endless sequence of packs over the endless ``order``.

    ``state`` is a result of :meth:`state_at`; without it the sequence starts at its beginning.

    Raises:
        ValueError: a sample is larger than the budget; its number and size are named.
    """

    def __init__(
        self,
        order: GlobalOrder,
        sizes: SizeTable,
        budget: Budget,
        *,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.order, self.sizes, self.budget = order, sizes, budget
        start = state or {"number": 0, "position": 0, "waiting": []}
        self._marks = deque([start])

    def state_at(self, number: int) -> dict[str, Any]:
        """The last state at or before pack ``number`` from which the sequence can be continued."""
        while len(self._marks) > 1 and self._marks[1]["number"] <= number:
            self._marks.popleft()
        return self._marks[0]

    def after(self, number: int) -> Iterator[Pack]:
        """The packs from ``number`` on."""
        mark = self.state_at(number)
        self._marks = deque([mark])
        return islice(self._sequence(mark), number - mark["number"], None)

    def _sequence(self, mark: dict[str, Any]) -> Iterator[Pack]:
        number, position, waiting = mark["number"], mark["position"], list(mark["waiting"])
        while True:
            end = self._end(position)
            places = [*waiting, *range(position, end)]
            indices = [self.order.index(place) for place in places]
            sizes = self.sizes.of(indices)
            self._check(indices, sizes)
            flush = end % self.order.length == 0
            packs, left = fill(sizes, self.budget, waiting=len(waiting), flush=flush)
            if (position // self.budget.window) % 2:
                packs.reverse()  # so that the sizes do not jump between two windows
            self.sizes.prefetch([self.order.index(place) for place in range(end, self._end(end))])
            for pack in packs:
                total = Size(*(sum(part) for part in zip(*(sizes[i] for i in pack), strict=True)))
                yield Pack(tuple(indices[i] for i in pack), total)
            number, position, waiting = number + len(packs), end, [places[i] for i in left]
            self._marks.append({"number": number, "position": position, "waiting": waiting})

    def _end(self, position: int) -> int:
        """The end of the window from ``position`` on, which does not exceed the epoch."""
        epoch_end = (position // self.order.length + 1) * self.order.length
        return min(position + self.budget.window, epoch_end)

    def _check(self, indices: Sequence[int], sizes: Sequence[Size]) -> None:
        for index, size in zip(indices, sizes, strict=True):
            if size.tokens > self.budget.tokens or size.tiles > self.budget.tiles:
                raise ValueError(
                    f"every sample must fit the budget of {self.budget.tokens} tokens and "
                    f"{self.budget.tiles} tiles, sample {index} has {size.tokens} and {size.tiles}; "
                    "raise data.packing.tokens or data.packing.tiles, or use fewer tiles"
                )


def share(packs: Sequence[Pack], world: int, budget: Budget) -> list[list[Pack]]:
    """Distribute the packs of a step to ``world`` ranks: equally many each, balanced by tokens and tiles."""
    limit = len(packs) // world

    def load(size: Size) -> float:
        return max(size.tokens / budget.tokens, size.tiles / budget.tiles)

    ranks: list[list[Pack]] = [[] for _ in range(world)]
    totals = [Size(0, 0)] * world
    for pack in sorted(packs, key=lambda pack: -load(pack.size)):
        open_ranks = [rank for rank in range(world) if len(ranks[rank]) < limit]
        sums = {
            rank: Size(totals[rank][0] + pack.size[0], totals[rank][1] + pack.size[1])
            for rank in open_ranks
        }
        best = min(open_ranks, key=lambda rank: (load(sums[rank]), rank))
        ranks[best].append(pack)
        totals[best] = sums[best]
    return ranks


class RankPacks(Sampler[list[int]]):
    """The samples of each pack that ``rank`` takes, from pack ``start`` of the sequence on."""

    def __init__(
        self, packs: Packs, *, start: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> None:
        if not 0 <= rank < world or accumulate < 1:
            raise ValueError(
                f"rank must be in 0..{world - 1} and accumulate at least 1, got {rank} and "
                f"{accumulate}"
            )
        self.packs, self.start = packs, start
        self.rank, self.world, self.accumulate = rank, world, accumulate

    def __iter__(self) -> Iterator[list[int]]:
        packs = self.packs.after(self.start)
        while True:
            step = list(islice(packs, self.world * self.accumulate))
            for pack in share(step, self.world, self.packs.budget)[self.rank]:
                yield list(pack.indices)
