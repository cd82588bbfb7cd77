"""The order of samples as a pure function of seed and position, so that a run can resume anywhere."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler


class GlobalOrder(Sampler[int]):
    """Indices of samples ``start``, ``start + 1``, ... of an endless sequence of shuffled epochs.

    Position p of the sequence is entry p % length of the permutation of epoch p // length. The ``world``
    ranks take ``block`` positions (a batch) in turn, so that the union over the ranks is the sequence, and
    the batches do not depend on the world size. The sequence ends before position ``stop``.

    ``index``, if given, is the function from positions to samples, instead of the permutations.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        stop: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        block: int = 1,
        shuffle: bool = True,
        index: Callable[[int], int] | None = None,
    ) -> None:
        if length < 1 or block < 1:
            raise ValueError(f"length and block must be at least 1, got {length} and {block}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self._given = index
        self.start, self.stop, self.block = start, stop, block
        self.rank, self.world = rank, world
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        rounds, rest = divmod(max(0, self.stop - self.start), self.block * self.world)
        return rounds * self.block + min(self.block, max(0, rest - self.rank * self.block))

    def __iter__(self) -> Iterator[int]:
        stride = self.block * self.world
        for first in range(self.start + self.rank * self.block, self.stop, stride):
            for position in range(first, min(first + self.block, self.stop)):
                yield self.index(position)

    def index(self, position: int) -> int:
        """The sample at ``position`` of the sequence."""
        if self._given is not None:
            return self._given(position)
        epoch, place = divmod(position, self.length)
        if not self.shuffle:
            return place
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & 0x7FFFFFFF)
            self._permutation = torch.randperm(self.length, generator=generator)
            self._epoch = epoch
        return int(self._permutation[place])
