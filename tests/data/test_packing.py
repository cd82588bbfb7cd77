"""Packs are full and balanced, hold each sample once per epoch, and do not depend on the number of ranks."""

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest

from hdvl.data.order import GlobalOrder
from hdvl.data.packing import Budget, Pack, Packs, RankPacks, fill, share
from hdvl.data.sizes import Size


class Table:
    """Sizes known beforehand; notes what was announced."""

    def __init__(self, sizes: list[Size]) -> None:
        self.sizes = sizes
        self.announced: list[list[int]] = []

    def of(self, indices: list[int]) -> list[Size]:
        return [self.sizes[index] for index in indices]

    def prefetch(self, indices: list[int]) -> None:
        self.announced.append(list(indices))


def trace(seed: int, length: int, tile_tokens: int) -> list[Size]:
    """Heavy tails: images of 1..12 tiles, 16..2048 tokens of text."""
    rng = np.random.default_rng(seed)
    tiles = np.clip(np.round(rng.pareto(1.2, length) + 1), 1, 12).astype(int)
    text = np.clip(rng.lognormal(4.5, 1.2, length), 16, 2048).astype(int)
    return [Size(int(b + a * tile_tokens), int(a)) for a, b in zip(tiles, text, strict=True)]


def packs_of(sizes: list[Size], budget: Budget, *, shuffle: bool = True, **state: object) -> Packs:
    order = GlobalOrder(len(sizes), seed=3, stop=2**62, shuffle=shuffle)
    return Packs(order, Table(sizes), budget, **state)


def epoch(packs: Packs, length: int) -> list[Pack]:
    found, count = [], 0
    for pack in packs.after(0):
        found.append(pack)
        count += len(pack.indices)
        if count == length:
            return found
    raise AssertionError


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("tile_tokens", [64, 256])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slots_are_filled_and_ranks_are_balanced(seed: int, tile_tokens: int) -> None:
    sizes = trace(seed, 4000, tile_tokens)
    budget = Budget(tokens=8192, tiles=96)
    packs = epoch(packs_of(sizes, budget), len(sizes))
    loads = np.array([pack.size for pack in packs])
    assert (loads <= [8192, 96]).all()
    assert loads[:, 0].sum() / (len(packs) * 8192) >= 0.98
    for accumulate in (1, 4):
        steps = [
            np.array([np.sum([pack.size for pack in rank], axis=0) for rank in ranks])
            for ranks in (
                share(packs[start : start + 8 * accumulate], 8, budget)
                for start in range(0, len(packs) - 8 * accumulate + 1, 8 * accumulate)
            )
        ]
        slowest, mean = np.sum([s.max(0) for s in steps], 0), np.sum([s.mean(0) for s in steps], 0)
        assert (slowest / mean <= 1.05).all()
        assert np.mean([(s.max(0) / s.mean(0)) for s in steps], axis=0).max() <= 1.05


def test_filling_in_order_of_arrival_would_not_do() -> None:
    """The result of the test above if packs are closed as soon as the next sample does not fit."""
    loads, tokens, tiles = [], 0, 0
    for size in trace(0, 4000, 64):
        if tokens + size.tokens > 8192:
            loads.append((tokens, tiles))
            tokens = tiles = 0
        tokens, tiles = tokens + size.tokens, tiles + size.tiles
    rounds = np.array(loads[: len(loads) // 8 * 8]).reshape(-1, 8, 2)
    assert (rounds.max(1).sum(0) / rounds.mean(1).sum(0))[1] > 1.15


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (1, 8), (2, 4), (8, 1), (3, 2)])
def test_each_sample_once_an_epoch_whoever_takes_it(world: int, accumulate: int) -> None:
    sizes = trace(0, 300, 64)
    budget = Budget(tokens=6000, tiles=60, window=64)
    whole = packs_of(sizes, budget)
    one, two = len(epoch(whole, 300)), len(epoch(whole, 600))
    ranks = [
        iter(RankPacks(packs_of(sizes, budget), rank=rank, world=world, accumulate=accumulate))
        for rank in range(world)
    ]
    size, taken = world * accumulate, []
    for _ in range(-(-two // size)):
        taken.append([next(rank) for _ in range(accumulate) for rank in ranks])
    # The packs of a step are those of one process, in whatever order.
    expected = [list(pack.indices) for pack in islice(whole.after(0), len(taken) * size)]
    for number, step in enumerate(taken):
        assert sorted(step) == sorted(expected[number * size : (number + 1) * size])
    for start, stop in ((0, one), (one, two)):
        assert Counter(chain.from_iterable(expected[start:stop])) == Counter(range(300))


@pytest.mark.parametrize("number", [0, 1, 7, 20, 33])
def test_the_sequence_goes_on_from_its_state(number: int) -> None:
    sizes, budget = trace(0, 120, 64), Budget(tokens=6000, tiles=60, window=32)
    whole = packs_of(sizes, budget)
    expected = list(islice(whole.after(0), 45))  # well ahead of the state that is asked for
    state = whole.state_at(number)
    assert state["number"] <= number and all(type(v) is int for v in state["waiting"])
    again = packs_of(sizes, budget, state=state)
    assert list(islice(again.after(number), 45 - number)) == expected[number:]
    if number > 20:
        assert state["position"] > 120  # no epoch is counted through again


def test_samples_that_do_not_fit_come_first_in_the_next_pack() -> None:
    sizes = [Size(60, 1), Size(60, 1), Size(30, 1)]
    packs, left = fill(sizes, Budget(tokens=100, tiles=9))
    assert (packs, left) == ([[0, 2]], [1])
    packs, left = fill([sizes[1], Size(70, 1), Size(40, 1)], Budget(100, 9), waiting=1)
    assert (packs, left) == ([[0, 2]], [1])
    assert fill(sizes, Budget(tokens=1000, tiles=9)) == ([], [0, 1, 2])
    packs, left = fill(sizes, Budget(tokens=100, tiles=9), flush=True)
    assert sorted(chain.from_iterable(packs)) == [0, 1, 2] and not left
    # Tiles alone may be what there is too much of.
    packs, left = fill([Size(10, 3)] * 4, Budget(tokens=1000, tiles=6), flush=True)
    assert [len(pack) for pack in packs] == [2, 2]


def test_the_next_window_is_prefetched() -> None:
    packs = packs_of([Size(10, 0)] * 10, Budget(tokens=20, tiles=1, window=4), shuffle=False)
    list(islice(packs.after(0), 5))
    assert packs.sizes.announced == [[4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]


def test_wrong_budgets_and_samples_are_named() -> None:
    with pytest.raises(ValueError, match=r"packing\.tiles must be at least 1, got 0"):
        Budget(tokens=1, tiles=0)
    packs = packs_of([Size(5, 1), Size(9, 3)], Budget(tokens=8, tiles=4), shuffle=False)
    with pytest.raises(ValueError, match="8 tokens and 4 tiles, sample 1 has 9 and 3; raise data"):
        next(packs.after(0))
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.1 and accumulate at least 1, got"):
        RankPacks(packs, rank=2, world=2)
