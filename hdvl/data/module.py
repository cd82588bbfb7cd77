"""The Lightning data module, which makes batches of conversations."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from hdvl.data.conversations import Conversations
from hdvl.data.faults import BadRows, SkippedRow, attempt, batch_of
from hdvl.data.mixture import Ordered
from hdvl.data.order import GlobalOrder
from hdvl.data.packing import Budget, Packs, RankPacks
from hdvl.data.sizes import Sizes
from hdvl.data.sources import finish
from hdvl.data.threads import ThreadLoader
from hdvl.processor import Batch, Processor, Sample, collate, pack

Loader = DataLoader[Sample | SkippedRow] | ThreadLoader[Batch]


class Samples(Dataset[Sample | SkippedRow]):
    """The samples of conversations, which the data workers make when they access them.

    A sample that cannot be made is replaced by a ``SkippedRow`` with the reason.
    """

    def __init__(self, conversations: Conversations, processor: Processor) -> None:
        self.conversations, self.processor = conversations, processor

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Sample | SkippedRow:
        made = attempt(self.conversations, index, self.processor)
        return made if isinstance(made, SkippedRow) else replace(made, row=index)


@runtime_checkable
class Stateful(Protocol):
    """Conversations with a state that is stored in checkpoints."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ChatData(pl.LightningDataModule):
    """Training and validation batches.

    The position in the training data is the number of samples consumed by all ranks. A resumed run needs
    nothing else, and may have another number of workers. With ``packing`` a batch is one pack, a row of
    samples within this budget, and the position is the number of packs.

    Rows that cannot be used are left out of their batch and named; at most the share ``max_bad`` of all rows
    may be. ``workers`` selects processes, or threads of this process.
    """

    def __init__(
        self,
        *,
        train: Conversations,
        processor: Processor,
        validation: Conversations | None = None,
        batch_size: int = 8,
        num_workers: int = 1,
        prefetch_factor: int = 4,
        seed: int = 0,
        shuffle: bool = True,
        packing: Budget | None = None,
        max_bad: float = 0.001,
        workers: Literal["processes", "threads"] = "processes",
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and "
                f"{num_workers}"
            )
        self.conversations, self.processor, self.validation = train, processor, validation
        finish([train] if validation is None else [train, validation], processor)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.prefetch_factor, self.seed, self.shuffle = prefetch_factor, seed, shuffle
        if workers not in ("processes", "threads"):
            raise ValueError(f"workers must be processes or threads, got {workers!r}")
        self.packing, self.workers = packing, workers
        self.bad = BadRows(max_bad, len(train) + (0 if validation is None else len(validation)))
        self.consumed = 0
        self._packs: Packs | None = None
        self._packs_state: dict[str, Any] | None = None
        self._loaders: list[DataLoader[Sample | SkippedRow]] = []

    @property
    def per_batch(self) -> int:
        """The number of positions of a training batch on one rank: its samples, or one pack."""
        return self.batch_size if self.packing is None else 1

    @property
    def pad_id(self) -> int:
        """The id with which rows are padded."""
        tokenizer = self.processor.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)

    def train_dataloader(self) -> Loader:
        """An endless stream of batches from position ``consumed`` on."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        samples = Samples(self.conversations, self.processor)
        packed = self.packing is not None
        order = GlobalOrder(
            len(samples),
            seed=self.seed,
            start=0 if packed else self.consumed,
            stop=2**62,
            rank=0 if packed else rank,
            world=1 if packed else world,
            block=self.batch_size,
            shuffle=self.shuffle,
            index=self._shares(),
        )
        if not packed:
            return self._loader(samples, BatchSampler(order, self.batch_size, False), self.collate)
        accumulate = trainer.accumulate_grad_batches if trainer else 1
        packs = self._pack(order)
        # This raises the error for a sample over the budget here. In the sampler of a loader with workers it
        # would be raised while Lightning makes its iterator, whose clean-up then fails with another error.
        next(packs.after(self.consumed))
        batches = RankPacks(
            packs, start=self.consumed, rank=rank, world=world, accumulate=accumulate
        )
        return self._loader(samples, batches, pack)

    def _shares(self) -> Callable[[int], int] | None:
        """The order that the conversations define, or None."""
        if isinstance(self.conversations, Ordered):
            return self.conversations.order(self.seed, shuffle=self.shuffle)
        return None

    def _pack(self, order: GlobalOrder) -> Packs:
        assert self.packing is not None
        workers = min(1, self.num_workers)
        sizes = Sizes(self.conversations, self.processor, num_workers=workers)
        self._packs = Packs(order, sizes, self.packing, state=self._packs_state)
        return self._packs

    def val_dataloader(self) -> Loader | list[Any]:
        """Validation batches in their own order; none if no validation data was given."""
        if self.validation is None:
            return []
        samples = Samples(self.validation, self.processor)
        every = BatchSampler(range(len(samples)), self.batch_size, False)
        return self._loader(samples, every, self.collate)

    def _loader(
        self, samples: Samples, batches: Any, make: Callable[[list[Sample]], Batch]
    ) -> Loader:
        gather = partial(
            batch_of, make=make, pad_id=self.pad_id, tile_size=self.processor.tiler.tile_size
        )
        if self.workers == "threads" and self.num_workers:
            return ThreadLoader(
                samples,
                batches,
                collate=gather,
                num_workers=self.num_workers,
                prefetch_factor=self.prefetch_factor,
            )
        loader = DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            persistent_workers=self.num_workers > 0,
            collate_fn=gather,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_first_sigterm,
        )
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the worker processes of all loaders.

        Lightning leaves them running when a run is stopped. At its exit Python sends them a SIGTERM, which
        they ignore once, and then waits for them without a limit.
        """
        for loader in self._loaders:
            iterator, loader._iterator = loader._iterator, None
            if isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()
        self._loaders = []

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count the rows that were left out of the batch."""
        self.bad.read += len(batch.left_out) + sum(row is not None for row in batch.rows)
        self.bad.record(batch.left_out)
        if self.trainer is None or self.trainer.world_size == 1:
            self.bad.check()
        return batch

    def sync_skipped_rows(self, trainer: pl.Trainer) -> None:
        """Count the skipped rows of all ranks; all ranks then continue, or all raise an error.

        Every rank must call it. If no rank has new rows, one number is communicated.
        """
        count = torch.tensor(float(len(self.bad.unreported)), device=trainer.strategy.root_device)
        if not trainer.strategy.reduce(count, reduce_op="sum"):
            return
        everyone: list[list[tuple[str, str]]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(everyone, self.bad.unreported)
        self.bad.merge(everyone)
        self.bad.check()

    def collate(self, samples: list[Sample]) -> Batch:
        """A batch of samples padded on the right."""
        return collate(samples, pad_id=self.pad_id)

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, counted over all ranks, and what is checked when the run is resumed."""
        state: dict[str, Any] = {
            "consumed": self.consumed,
            "length": len(self.conversations),
            "step": self._step_size(),
        }
        if isinstance(self.conversations, Stateful):
            state["source"] = self.conversations.state_dict()
        if self.bad:
            state["bad"] = dict(self.bad.skipped)
        if self.packing is not None:
            packs = self._packs
            state["packs"] = self._packs_state if packs is None else packs.state_at(self.consumed)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position of an earlier run, with any number of workers and ranks.

        Raises:
            ValueError: the data or the size of a step differ.
        """
        if (self.packing is not None) != ("packs" in state):
            raise ValueError(
                "a run must be resumed with the packing it was started with; give data.packing as it was, "
                "or start a new run from its weights with init_from"
            )
        self._check(state)
        if isinstance(self.conversations, Stateful):
            self.conversations.load_state_dict(state["source"])
        self.bad.load(state.get("bad", {}))
        self.consumed = int(state["consumed"])
        self._packs_state = state.get("packs")

    def _step_size(self) -> int:
        """The number of positions of an optimizer step."""
        trainer = self.trainer
        ranks = trainer.world_size * trainer.accumulate_grad_batches if trainer else 1
        return self.per_batch * ranks

    def _check(self, state: dict[str, Any]) -> None:
        length, step = len(self.conversations), self._step_size()
        if state.get("length", length) != length:
            raise ValueError(
                f"a run must be resumed with the data it was started with, which had {state['length']} "
                f"conversations and has {length} now; start a new run with init_from"
            )
        if state.get("step", step) != step:
            raise ValueError(
                f"a step must have the size it was started with, ranks * accumulate_grad_batches * "
                f"{self.per_batch} = {state['step']}, got {step}; change "
                "trainer.accumulate_grad_batches or data.batch_size"
            )


def _ignore_first_sigterm(worker: int) -> None:
    """Ignore the first SIGTERM in a data worker; the second one ends it.

    A scheduler sends SIGTERM to all processes, but the batches of the last step are still needed.
    """

    def only_once(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, only_once)
