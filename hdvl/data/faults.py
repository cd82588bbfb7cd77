"""Rows that cannot be learned from: left out of their batch, named, counted, and not too many."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.rows import NOT_LEARNED, printable
from hdvl.processor import Batch, Sample
from hdvl.protocols import Conversation
from hdvl.templates.encode import IGNORED

SHOWN = 20
"""Rows that the message of a stopped run names; all are named as they are met."""


Made = TypeVar("Made")


@dataclass(frozen=True)
class SkippedRow:
    """What stands in the place of a sample that could not be made."""

    name: str
    reason: str


def attempt(
    conversations: Conversations, index: int, make: Callable[[Conversation], Made]
) -> Made | SkippedRow:
    """What ``make`` makes of conversation ``index``, or why nothing can be learned from it.

    Training, the plan, packing and the sampled answers all read conversations through this function,
    so that they leave out the same ones.
    """
    try:
        return make(conversations[index])
    except NOT_LEARNED as error:
        name = name_of(conversations, index)
        reason = str(error) or type(error).__name__
        return SkippedRow(name, printable(reason.removeprefix(f"{name}: ")))


class TooManyBadRows(RuntimeError):
    """More rows were left out than the budget allows; the message names them."""


class BadRows:
    """Counts the rows that were left out, each once, however many epochs meet it.

    At most ``max_bad`` of the ``rows`` may be: a share, rounded down. Of several ranks each meets its
    own rows; after :meth:`share` all count the rows of all.
    """

    def __init__(self, max_bad: float, rows: int) -> None:
        if not 0 <= max_bad <= 1:
            raise ValueError(f"max_bad must be a share in 0..1, got {max_bad}")
        self.max_bad, self.rows = max_bad, rows
        self.met: dict[str, str] = {}
        self.news: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.met)

    def meet(self, left_out: Iterable[tuple[str, str]]) -> None:
        """Take note of (name, reason) of rows; new ones are printed."""
        for name, reason in left_out:
            if name not in self.met:
                self.met[name] = reason
                self.news.append((name, reason))
                print(f"left out ({len(self.met)}): {name}: {reason}", flush=True)

    def share(self, everyone: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Count also the ``news`` that the ranks had since they last shared."""
        self.news = []
        for news in everyone:
            for name, reason in news:
                self.met.setdefault(name, reason)

    def check(self) -> None:
        """Hold to the budget.

        Raises:
            TooManyBadRows: the budget is spent.
        """
        allowed = int(self.max_bad * self.rows)
        if len(self.met) > allowed:
            raise TooManyBadRows(self._list(allowed))

    def load(self, met: Mapping[str, str]) -> None:
        """Go on from what a run had met."""
        self.met = dict(met)

    def _list(self, allowed: int) -> str:
        lines = [f"  {name}: {reason}" for name, reason in list(self.met.items())[:SHOWN]]
        more = [f"  and {len(self.met) - SHOWN} more"] if len(self.met) > SHOWN else []
        head = (
            f"at most max_bad={self.max_bad} of {self.rows} rows, which is {allowed}, may be left out, "
            f"got {len(self.met)}; find all with: hdvl data lint, and give the quarantine file it "
            "writes to the reader, or raise data.max_bad"
        )
        return "\n".join([head, *lines, *more])


def batch_of(
    items: Sequence[Sample | SkippedRow],
    *,
    make: Callable[[list[Sample]], Batch],
    pad_id: int,
    tile_size: int,
) -> Batch:
    """A batch of the samples among ``items``; the others stand in its ``left_out``.

    Nothing takes the place of what is left out. A batch of faulty rows alone is one id without a
    label, so that every rank has a batch for every step.
    """
    good = [item for item in items if isinstance(item, Sample)]
    left_out = tuple((item.name, item.reason) for item in items if isinstance(item, SkippedRow))
    return replace(make(good or [_nothing(pad_id, tile_size)]), left_out=left_out)


def _nothing(pad_id: int, tile_size: int) -> Sample:
    return Sample(
        ids=torch.tensor([pad_id]),
        labels=torch.tensor([IGNORED]),
        pixels=torch.empty(0, 3, tile_size, tile_size, dtype=torch.uint8),
        plans=(),
    )
