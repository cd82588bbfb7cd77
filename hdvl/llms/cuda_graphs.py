"""Decoding steps as CUDA graphs: one launch instead of one for each kernel.

A decoding step of a large model reads all weights for a few rows. On a GPU most of its time would be the
time to launch more than a thousand small kernels. A graph is captured for each number of rows and each
range of lengths. Its attention covers the whole range, and a mask hides the positions that a row does not
hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

RANGE = 1024
"""Attention covers a multiple of this number of positions."""
_WARM_UP = 2

Step = Callable[[Float[Tensor, "rows e"], Int[Tensor, " rows"], int], Float[Tensor, "rows v"]]
"""The step: embeddings, the positions that each row holds already, and how many positions to attend to."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    embeddings: Tensor
    lengths: Tensor
    logits: Tensor


class GraphedSteps:
    """Runs ``step`` as CUDA graphs. What it reads and writes must stay where it is in memory.

    Args:
        step: the decoding step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._pool: Any = None

    def clear(self) -> None:
        """Forget the graphs, as is needed when the slots have moved in memory."""
        self._captured.clear()
        self._pool = None

    def __call__(
        self, embeddings: Float[Tensor, "rows e"], lengths: list[int], room: int
    ) -> Float[Tensor, "rows v"]:
        """Run the step. The logits are valid until the next call.

        Args:
            embeddings: the newest token of each row.
            lengths: the number of positions that each row holds already.
            room: the positions of a slot.
        """
        size = min(range_of(max(lengths)), room)
        key, places = (len(lengths), size), torch.tensor(lengths)
        if key not in self._captured:
            self._captured[key] = self._capture(embeddings, places.to(embeddings.device), size)
        found = self._captured[key]
        found.embeddings.copy_(embeddings)
        found.lengths.copy_(places)
        found.graph.replay()
        return found.logits

    def _capture(self, embeddings: Tensor, lengths: Tensor, size: int) -> _Captured:
        embeddings = embeddings.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._step(embeddings, lengths, size)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._step(embeddings, lengths, size)
        self._pool = graph.pool()
        return _Captured(graph, embeddings, lengths, logits)


def range_of(length: int) -> int:
    """Return how many positions a step attends to after ``length`` positions."""
    return (length // RANGE + 1) * RANGE
