"""The order of samples."""

from itertools import islice

import pytest

from hdvl.data.order import GlobalOrder


def test_an_epoch_holds_every_sample_once_and_epochs_differ():
    order = list(GlobalOrder(10, seed=1, stop=30))
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_resuming_at_any_position_gives_the_same_rest():
    whole = list(GlobalOrder(7, seed=3, stop=40))
    for start in (0, 1, 6, 7, 8, 25):
        assert list(GlobalOrder(7, seed=3, start=start, stop=40)) == whole[start:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_sequence(world):
    parts = [list(GlobalOrder(9, seed=0, stop=36, rank=r, world=world)) for r in range(world)]
    woven = [part[i] for i in range(len(parts[0])) for part in parts]
    assert woven == list(GlobalOrder(9, seed=0, stop=36))
    assert [len(GlobalOrder(9, seed=0, stop=36, rank=r, world=world)) for r in range(world)] == [
        len(part) for part in parts
    ]


@pytest.mark.parametrize("stop", [36, 31, 5, 0])
def test_ranks_take_whole_batches_in_turn(stop):
    whole = list(GlobalOrder(9, seed=0, stop=stop))
    orders = [GlobalOrder(9, seed=0, stop=stop, rank=r, world=3, block=2) for r in range(3)]
    parts = [list(order) for order in orders]
    assert [len(order) for order in orders] == [len(part) for part in parts]
    batches = [part[i : i + 2] for i in range(0, len(parts[0]), 2) for part in parts]
    assert [index for batch in batches for index in batch] == whole


def test_without_shuffling_the_order_is_that_of_the_data():
    assert list(islice(GlobalOrder(4, seed=0, stop=99, shuffle=False), 6)) == [0, 1, 2, 3, 0, 1]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="length and block must be at least 1, got 0 and 1"):
        GlobalOrder(0, seed=0, stop=1)
    with pytest.raises(ValueError, match=r"rank must be in 0..1, got 2"):
        GlobalOrder(1, seed=0, stop=1, rank=2, world=2)
