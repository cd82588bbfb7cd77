"""Threads as data workers: order, errors, and the number of torch's threads."""

import threading
import time

import pytest
import torch

from hdvl.data.threads import ThreadLoader


class Squares:
    def __init__(self):
        self.threads = {}

    def __getitem__(self, index):
        time.sleep(0.002 * (index % 3))
        self.threads[threading.current_thread().name] = torch.get_num_threads()
        if index == 99:
            raise ValueError("row 99 is bad")
        return index * index


def load(batches, **options):
    items = Squares()
    loader = ThreadLoader(items, batches, collate=list, **{"num_workers": 3, **options})
    return items, loader


@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_come_in_their_order(num_workers):
    batches = [[i, i + 1] for i in range(0, 30, 2)]
    items, loader = load(batches, num_workers=num_workers)
    assert list(loader) == [[i * i, (i + 1) ** 2] for i in range(0, 30, 2)]
    assert list(loader) == list(loader)
    assert len(loader) == 15
    assert threading.main_thread().name not in items.threads


def test_workers_use_one_core_each_and_the_rest_of_torch_keeps_its_own():
    torch.set_num_threads(2)
    try:
        items, loader = load([[i] for i in range(12)])
        list(loader)
        assert set(items.threads.values()) == {1}
        assert torch.get_num_threads() == 2
        late = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert late == [2]
    finally:
        torch.set_num_threads(1)


def test_read_ahead_of_an_endless_order_is_bounded():
    asked = []

    def numbers():
        index = 0
        while True:
            asked.append(index)
            yield [index]
            index += 1

    _, loader = load(numbers(), num_workers=2, prefetch_factor=3)
    stream = iter(loader)
    assert [next(stream) for _ in range(4)] == [[0], [1], [4], [9]]
    assert len(asked) <= 4 + 6
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("data")]


def test_errors_are_raised_when_their_batch_is_due():
    _, loader = load([[0], [1], [99], [2]])
    stream = iter(loader)
    assert [next(stream), next(stream)] == [[0], [1]]
    with pytest.raises(ValueError, match="row 99 is bad"):
        next(stream)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="num_workers and prefetch_factor must be at least 1"):
        load([], num_workers=0)
