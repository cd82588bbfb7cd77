"""Implementations that are timed in turn, for benchmarks, and the time that memory takes at least."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from hdvl.llms.huge_pages import HugePages

Ids = list[list[int]]


@dataclass
class Race:
    """Several implementations that must give the same ids, run alternately; the first is hdvl's."""

    name: str
    ways: dict[str, Callable[[], Ids]]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    equal: bool = True

    def round(self, number: int) -> None:
        """Run each way once; the round 0 warms up."""
        names = list(self.ways) if number % 2 else list(reversed(self.ways))
        said = {}
        for name in names:
            gc.collect()
            start = time.process_time()
            said[name] = self.ways[name]()
            if number:
                self.seconds.setdefault(name, []).append(time.process_time() - start)
        self.equal &= all(ids == next(iter(said.values())) for ids in said.values())

    def report(self) -> None:
        """Print the times and the ratios of each round."""
        own, *others = self.seconds
        print(f"  {self.name}{'' if self.equal else '   IDS DIFFER'}")
        print(f"    {own:32} {spread(self.seconds[own])}")
        for name in others:
            pairs = zip(self.seconds[own], self.seconds[name], strict=True)
            ratios = sorted(theirs / mine for mine, theirs in pairs)
            print(
                f"    {name:32} {spread(self.seconds[name])}   x {statistics.median(ratios):.2f} "
                f"[{ratios[0]:.2f}-{ratios[-1]:.2f}]"
            )


def spread(seconds: Sequence[float]) -> str:
    """Median [min-max] in milliseconds."""
    middle, least, most = (
        value * 1e3 for value in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return f"{middle:8.2f} ms [{least:.2f}-{most:.2f}]"


def run(race: Race, rounds: int) -> bool:
    """All rounds of a race; whether the ids were equal."""
    for number in range(rounds + 1):
        race.round(number)
    race.report()
    return race.equal


@dataclass
class Steps:
    """The CPU times at which each row of a call got its ids.

    Attributes:
        start: when the call began.
        rows: the times of each row.
    """

    start: float
    rows: list[list[float]]

    @property
    def first(self) -> float:
        """Seconds until all rows had their first id."""
        return max(row[0] for row in self.rows) - self.start

    @property
    def later(self) -> float:
        """Seconds of a step, of those in which all rows got an id."""
        start, end = max(row[0] for row in self.rows), min(row[-1] for row in self.rows)
        steps = sum(start < when <= end for when in self.rows[0])
        return (end - start) / steps


def bytes_per_second() -> float:
    """The rate at which this process reads 256 MB of memory, in CPU time; the best of 8 times."""
    count = 2**26
    pages = HugePages(4 * count + 64, torch.device("cpu"))
    values = pages.zeros((count,), torch.zeros(1)).fill_(1.0)
    times = []
    for _ in range(8):
        start = time.process_time()
        values.sum()
        times.append(time.process_time() - start)
    return 4 * count / min(times)
