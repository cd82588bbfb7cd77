"""Conversations -> batches, as Lightning wants them."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from hdvl.data.conversations import Conversations
from hdvl.data.order import GlobalOrder
from hdvl.processor import Batch, Processor, Sample, collate


class Samples(Dataset[Sample]):
    """Conversations turned into samples where they are asked for: in the data workers."""

    def __init__(self, conversations: Conversations, processor: Processor) -> None:
        self.conversations, self.processor = conversations, processor

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Sample:
        return self.processor(self.conversations[index])


class ChatData(pl.LightningDataModule):
    """Training and validation batches.

    The position in the training data is a count of samples over all ranks; it is all that a resumed
    run needs, whatever its number of workers.
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
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and "
                f"{num_workers}"
            )
        self.conversations, self.processor, self.validation = train, processor, validation
        self.batch_size, self.num_workers = batch_size, num_workers
        self.prefetch_factor, self.seed, self.shuffle = prefetch_factor, seed, shuffle
        self.consumed = 0

    @property
    def pad_id(self) -> int:
        """What rows of ids are padded with."""
        tokenizer = self.processor.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches from position ``consumed`` on, as many as the trainer's steps need."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        samples = Samples(self.conversations, self.processor)
        order = GlobalOrder(
            len(samples),
            seed=self.seed,
            start=self.consumed,
            stop=2**62,
            rank=rank,
            world=world,
            shuffle=self.shuffle,
        )
        return self._loader(samples, order)

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Validation batches in their own order; none if no validation data was given."""
        if self.validation is None:
            return []
        samples = Samples(self.validation, self.processor)
        return self._loader(samples, range(len(samples)))

    def _loader(self, samples: Samples, order: Any) -> DataLoader[Sample]:
        return DataLoader(
            samples,
            self.batch_size,
            sampler=order,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            persistent_workers=self.num_workers > 0,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
        )

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples padded on the right."""
        return collate(samples, pad_id=self.pad_id)

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, counted over all ranks."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a run stopped."""
        self.consumed = int(state["consumed"])
