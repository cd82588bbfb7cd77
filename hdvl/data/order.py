"""The order of samples: a pure function of seed and position, so any run can go on anywhere."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class GlobalOrder(Sampler[int]):
    """Indices of samples ``start``, ``start + 1``, ... of an endless sequence of shuffled epochs.

    Position p of the sequence is entry p % length of the permutation of epoch p // length. With
    ``world`` ranks, rank r takes positions start + r, start + r + world, ...: the union over ranks
    is the sequence, whatever the world size. Stops before position ``stop``.
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
        shuffle: bool = True,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.start, self.stop, self.rank, self.world = start, stop, rank, world
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return max(0, -(-(self.stop - self.start - self.rank) // self.world))

    def __iter__(self) -> Iterator[int]:
        for position in range(self.start + self.rank, self.stop, self.world):
            yield self.index(position)

    def index(self, position: int) -> int:
        """The sample at ``position`` of the sequence."""
        epoch, place = divmod(position, self.length)
        if not self.shuffle:
            return place
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & 0x7FFFFFFF)
            self._permutation = torch.randperm(self.length, generator=generator)
            self._epoch = epoch
        return int(self._permutation[place])
