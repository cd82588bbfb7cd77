"""Skips rows that cannot be used for training, names and counts them, and limits their number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.folders import ADVICE, are_missing_images
from hdvl.data.rows import SKIPPABLE, printable
from hdvl.processor import Batch, Sample
from hdvl.protocols import Conversation
from hdvl.templates.encode import IGNORED

SHOWN = 3
"""The number of rows in the message of a stopped run. Every row is also printed when it is skipped."""


Made = TypeVar("Made")


@dataclass(frozen=True)
class SkippedRow:
    """Takes the place of a sample that could not be made."""

    name: str
    reason: str


def attempt(
    conversations: Conversations, index: int, make: Callable[[Conversation], Made]
) -> Made | SkippedRow:
    """The result of ``make`` for conversation ``index``, or the reason why it cannot be used.

    Training, planning, packing and the sampled answers all read conversations through this function,
    so that they skip the same ones.
    """
    try:
        return make(conversations[index])
    except SKIPPABLE as error:
        name = name_of(conversations, index)
        reason = str(error) or type(error).__name__
        return SkippedRow(name, printable(reason.removeprefix(f"{name}: ")))


class TooManyBadRows(ValueError):
    """More rows were skipped than ``max_bad`` allows; the message names them."""


class BadRows:
    """Counts the rows that were skipped. Each is counted once, also over several epochs.

    Args:
        max_bad: the share of rows that may be skipped; the number is rounded down.
        rows: the number of rows.

    Each rank records its own rows. After :meth:`share`, every rank counts the rows of all ranks.
    """

    def __init__(self, max_bad: float, rows: int) -> None:
        if not 0 <= max_bad <= 1:
            raise ValueError(f"max_bad must be a share in 0..1, got {max_bad}")
        self.max_bad, self.rows = max_bad, rows
        self.read = 0  # rows that this rank read, with those that it skipped
        self.skipped: dict[str, str] = {}
        self.unreported: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.skipped)

    def record(self, left_out: Iterable[tuple[str, str]]) -> None:
        """Record (name, reason) of skipped rows, and print those that are new."""
        for name, reason in left_out:
            if name not in self.skipped:
                self.skipped[name] = reason
                self.unreported.append((name, reason))
                print(f"left out ({len(self.skipped)}): {name}: {reason}", flush=True)

    def merge(self, everyone: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Count the skipped rows of all ranks: the ``unreported`` ones of each rank since the last call."""
        self.unreported = []
        for rank_faults in everyone:
            for name, reason in rank_faults:
                self.skipped.setdefault(name, reason)

    def check(self) -> None:
        """Check the number of skipped rows.

        Raises:
            TooManyBadRows: more rows were skipped than ``max_bad`` allows.
        """
        allowed = int(self.max_bad * self.rows)
        if len(self.skipped) > allowed:
            raise TooManyBadRows(self._list(allowed))

    def load(self, faults: Mapping[str, str]) -> None:
        """Restore the rows that an earlier run skipped."""
        self.skipped = dict(faults)

    def _list(self, allowed: int) -> str:
        shown = [f"{name}: {reason}" for name, reason in list(self.skipped.items())[:SHOWN]]
        advice = (
            "find all with: hdvl data lint, and give the quarantine file it writes as "
            "data.train.quarantine, or raise data.max_bad"
        )
        if are_missing_images(self.skipped.values(), self.read):
            advice = ADVICE
        return (
            f"at most data.max_bad={self.max_bad} of {self.rows} rows, which is {allowed}, may be left "
            f"out, got {len(self.skipped)}; {advice}; the first: {'; '.join(shown)}"
        )


def batch_of(
    items: Sequence[Sample | SkippedRow],
    *,
    make: Callable[[list[Sample]], Batch],
    pad_id: int,
    tile_size: int,
) -> Batch:
    """A batch of the samples among ``items``; the skipped rows are listed in its ``left_out``.

    Skipped rows are not replaced. If all rows are skipped, the batch is a single id without a label, so that
    every rank has a batch in every step.
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
