"""A loader whose workers are threads: batches are handed over, not copied between processes.

Decoding, resizing and tokenising let go of Python's lock, so threads do them at once; on small
images this takes a sixth less CPU than processes do (docs/performance.md).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

Made = TypeVar("Made")


@runtime_checkable
class Indexed(Protocol):
    """Items by their number."""

    def __getitem__(self, index: int, /) -> Any: ...


class ThreadLoader(Generic[Made]):
    """Batches of ``items``, in the order of ``batches``, made by ``num_workers`` threads.

    Args:
        items: asked by several threads at once.
        batches: the numbers of each batch's items.
        collate: from items to a batch, in the thread that read them.
        num_workers: threads; each makes whole batches.
        prefetch_factor: batches a thread may be ahead.
    """

    def __init__(
        self,
        items: Indexed,
        batches: Iterable[Sequence[int]],
        *,
        collate: Callable[[list[Any]], Made],
        num_workers: int,
        prefetch_factor: int = 2,
    ) -> None:
        if num_workers < 1 or prefetch_factor < 1:
            raise ValueError(
                f"num_workers and prefetch_factor must be at least 1, got {num_workers} and "
                f"{prefetch_factor}"
            )
        self.items, self.batches, self.collate = items, batches, collate
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Made]:
        pool = _one_thread_each(self.num_workers)
        numbers = iter(self.batches)
        waiting: deque[Future[Made]] = deque()
        try:
            ahead = self.num_workers * self.prefetch_factor
            waiting.extend(pool.submit(self._make, batch) for batch in islice(numbers, ahead))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(self._make, batch) for batch in islice(numbers, 1))
                yield made
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, batch: Sequence[int]) -> Made:
        return self.collate([self.items[index] for index in batch])


def _one_thread_each(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each; the rest of the process keeps its own number.

    torch's number is a thread's own once the thread has asked for it, and the default of threads that
    have not.
    """
    before, ready = torch.get_num_threads(), Barrier(count + 1)

    def start() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="data")
    for _ in range(count):
        pool.submit(start)
    ready.wait()
    torch.set_num_threads(before)
    return pool
