"""Estimates batches and padding of training from the sizes of conversations, without decoding pixels."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.faults import SkippedRow, attempt
from hdvl.data.folders import ADVICE, are_missing_images
from hdvl.data.order import GlobalOrder
from hdvl.data.packing import Budget, Pack, Packs, share
from hdvl.data.sizes import Size, measure
from hdvl.data.sources import finish
from hdvl.processor import Processor


@dataclass(frozen=True)
class Survey:
    """The sizes of ``len(sizes)`` of ``length`` conversations.

    ``too_long`` and ``faulty`` are (name, reason) of those that training would leave out.
    """

    length: int
    sizes: tuple[Size, ...]
    too_long: tuple[tuple[str, str], ...]
    faulty: tuple[tuple[str, str], ...]

    def check(self, *, max_bad: float, max_length: int | None) -> None:
        """Raise a ``ValueError`` if training would leave out more than ``max_bad``, or everything."""
        seen = len(self.sizes) + len(self.too_long) + len(self.faulty)
        for field, found in (
            (f"data.max_length={max_length}", self.too_long),
            ("data.train", self.faulty),
        ):
            if len(found) > max_bad * seen:
                name, reason = found[0]
                lost = are_missing_images([why for _, why in found], seen)
                raise ValueError(
                    f"{field} would leave out {len(found)} of {seen} conversations, at most "
                    f"data.max_bad={max_bad} of them may be; the first is {name}: {reason}"
                    + (f"; {ADVICE}" if lost else "")
                )
        if not self.sizes:
            raise ValueError(f"data.train must have a usable conversation, {seen} had none")

    def rows(self) -> list[list[str]]:
        """The rows of a table: name, and share with a bar."""
        rows = [
            ["left out", f"{len(self.too_long)} over max_length, {len(self.faulty)} faulty"],
            *_histogram_rows("tokens", [size.tokens for size in self.sizes]),
            *_histogram_rows("tiles", [size.tiles for size in self.sizes], exact=True),
        ]
        return rows


class Micro(NamedTuple):
    """The size of a micro-batch, which one rank computes at a time.

    Attributes:
        tokens: the number of useful positions.
        positions: the number of all positions, including padding.
        tiles: the number of tiles.
        squares: the sum of the squared lengths over which attention is computed.
    """

    tokens: int
    positions: int
    tiles: int
    squares: int


@dataclass(frozen=True)
class EpochBatches:
    """The distribution of samples to batches and ranks.

    Attributes:
        micros: the micro-batches.
        packed: whether samples are packed.
        filled: the share of useful positions among the computed ones, or in the budget of packing.
        balance: the load of the slowest rank of a step divided by the mean load, in tokens and in tiles.
    """

    micros: tuple[Micro, ...]
    packed: bool
    filled: float
    balance: tuple[float, float]

    @property
    def tokens(self) -> int:
        """The total number of useful positions."""
        return sum(micro.tokens for micro in self.micros)

    def rows(self) -> list[list[str]]:
        """The rows of a table: name and value."""
        of = "of the packing's budget" if self.packed else "of the padded batches"
        tokens, tiles = self.balance
        return [
            ["filled", f"{self.filled:.1%} {of}"],
            ["slowest rank", f"{tokens:.2f} of the mean in tokens, {tiles:.2f} in tiles"],
        ]


def survey(
    conversations: Conversations, processor: Processor, *, most: int | None, seed: int = 0
) -> Survey:
    """The sizes of ``most`` conversations drawn with ``seed``, or of all if it is None."""
    length = len(conversations)
    if length < 1:
        raise ValueError("data.train must have at least one conversation, got none")
    finish([conversations], processor)
    order = GlobalOrder(length, seed=seed, stop=length if most is None else min(most, length))
    free = replace(processor, max_length=None)
    sizes, too_long, faulty = [], [], []
    for index in order:
        size = attempt(conversations, index, partial(measure, free))
        if isinstance(size, SkippedRow):
            faulty.append((size.name, size.reason.split("\n")[0]))
            continue
        if processor.max_length is not None and size.tokens > processor.max_length:
            too_long.append((name_of(conversations, index), f"{size.tokens} tokens"))
            continue
        sizes.append(size)
    return Survey(length, tuple(sizes), tuple(too_long), tuple(faulty))


def plan_batches(
    sizes: Sequence[Size], *, batch_size: int, packing: Budget | None, world: int, accumulate: int
) -> EpochBatches:
    """The batches of one epoch over ``sizes``, as training would make them."""
    if packing is None:
        rows = [sizes[start : start + batch_size] for start in range(0, len(sizes), batch_size)]
        micros = [_padded(row) for row in rows]
        steps_by_rank = [[[m] for m in step] for step in _groups(micros, world)]
        room = sum(micro.positions for micro in micros)
    else:
        packs = _epoch(sizes, packing)
        micros = [_packed([sizes[i] for i in pack.indices]) for pack in packs]
        steps = _groups(packs, world * accumulate)
        steps_by_rank = [
            [[_packed([pack.size]) for pack in rank] for rank in share(step, world, packing)]
            for step in steps
        ]
        room = packing.tokens * len(packs)
    useful = sum(micro.tokens for micro in micros)
    balance = _balance(steps_by_rank, "positions" if packing is None else "tokens")
    return EpochBatches(tuple(micros), packing is not None, useful / room, balance)


def histogram(values: Sequence[int], *, exact: bool = False) -> list[tuple[str, int]]:
    """(bucket, count) in order. Buckets end at powers of two; with ``exact`` each number has its own.

    >>> histogram([1, 3, 3, 4])
    [('1', 1), ('3..4', 3)]
    """
    found: Counter[tuple[int, int]] = Counter()
    for value in values:
        top = value if exact or value < 1 else 1 << (value - 1).bit_length()
        low = top if exact or top <= 2 else top // 2 + 1
        found[low, top] += 1
    return [
        (str(low) if low == top else f"{low}..{top}", count)
        for (low, top), count in sorted(found.items())
    ]


def _histogram_rows(
    name: str, values: Sequence[int], *, exact: bool = False, width: int = 40
) -> list[list[str]]:
    total = max(1, len(values))
    return [
        [f"{name} {bucket}", f"{count / total:4.0%} {'#' * round(width * count / total)}"]
        for bucket, count in histogram(values, exact=exact)
    ]


def _padded(row: Sequence[Size]) -> Micro:
    longest = max(size.tokens for size in row)
    return Micro(
        tokens=sum(size.tokens for size in row),
        positions=longest * len(row),
        tiles=sum(size.tiles for size in row),
        squares=longest * longest * len(row),
    )


def _packed(row: Sequence[Size]) -> Micro:
    tokens = sum(size.tokens for size in row)
    squares = sum(size.tokens**2 for size in row)
    return Micro(tokens, tokens, sum(size.tiles for size in row), squares)


class _Known:
    """A table of known sizes."""

    def __init__(self, sizes: Sequence[Size]) -> None:
        self.sizes = sizes

    def of(self, indices: Sequence[int]) -> list[Size]:
        return [self.sizes[index] for index in indices]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Do nothing, since all sizes are known."""


def _epoch(sizes: Sequence[Size], budget: Budget) -> list[Pack]:
    packs = Packs(GlobalOrder(len(sizes), seed=0, stop=len(sizes)), _Known(sizes), budget)
    found, samples = [], 0
    for pack in packs.after(0):
        found.append(pack)
        samples += len(pack.indices)
        if samples == len(sizes):
            break
    return found


def _groups(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Complete groups of ``size`` items; all items as one group if there are fewer."""
    rest = iter(items)
    complete = 0
    while len(group := list(islice(rest, size))) == size or (group and not complete):
        complete += 1
        yield group


def _balance(
    steps: Iterable[Sequence[Sequence[Micro]]], length: Literal["positions", "tokens"]
) -> tuple[float, float]:
    """The largest load of a rank divided by the mean load, averaged over the steps: in length, in tiles."""
    ratios = []
    for ranks in steps:
        loads = [
            [sum(getattr(micro, field) for micro in rank) for rank in ranks]
            for field in (length, "tiles")
        ]
        ratios.append([max(load) * len(load) / max(1, sum(load)) for load in loads])
    first, second = (sum(column) / len(ratios) for column in zip(*ratios, strict=True))
    return max(1.0, first), max(1.0, second)
