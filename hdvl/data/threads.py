"""A loader whose workers are threads, so that batches are not copied between processes.

Decoding, resizing and tokenising release Python's global lock and run in parallel. With small images this
takes a sixth less CPU time than processes (docs/performance.md).
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
    """Items that are accessed by number."""

    def __getitem__(self, index: int, /) -> Any: ...


class ThreadLoader(Generic[Made]):
    """Batches of ``items``, in the order of ``batches``, made by ``num_workers`` threads.

    Args:
        items: the items, which several threads access at the same time.
        batches: the numbers of the items of each batch.
        collate: makes a batch of its items, in the thread that read them.
        num_workers: the number of threads; each makes whole batches.
        prefetch_factor: the number of batches that are prefetched per thread.
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
    """A pool of threads in which torch uses one core each; other threads keep their number of cores.

    torch's number of threads becomes local to a thread when the thread first reads it. Until then, the
    global default applies.
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
