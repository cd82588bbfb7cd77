"""How many tokens and tiles a conversation takes, without its pixels: headers of images and text."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from hdvl.data.conversations import Conversations
from hdvl.data.rows import NOT_LEARNED
from hdvl.images import name_of, open_image, orientation, read_image
from hdvl.processor import Processor
from hdvl.protocols import Conversation
from hdvl.templates.shared_prefix import encode_row, images_of

_TOGETHER = 16
"""Conversations that a worker measures at a time."""


class Size(NamedTuple):
    """What a sample takes of a budget."""

    tokens: int
    tiles: int


def image_size(source: Any, *, exif: bool) -> tuple[int, int]:
    """Width and height of the upright image; pixels are decoded for TIFF alone."""
    image = open_image(source)
    if image.format == "TIFF":  # Pillow turns these as it decodes them
        return read_image(source, exif=exif).size
    width, height = image.size
    lying = exif and orientation(image, name=name_of(source)) >= 5
    return (height, width) if lying else (width, height)


def measure(processor: Processor, messages: Conversation) -> Size:
    """The size of the sample that ``processor`` makes of ``messages``."""
    plans = [
        processor.tiler.plan(*image_size(image, exif=processor.tiler.exif))
        for image in images_of(messages)
    ]
    row = encode_row(
        processor.template,
        processor.tokenizer,
        messages,
        [processor.token_count(plan) for plan in plans],
        max_length=processor.max_length,
    )
    return Size(tokens=len(row.ids), tiles=sum(plan.count for plan in plans))


class _Measured(Dataset[tuple[int, int, int]]):
    """Sizes of conversations, measured where they are asked for: in the workers."""

    def __init__(self, conversations: Conversations, processor: Processor) -> None:
        self.conversations, self.processor = conversations, processor

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        try:
            return (index, *measure(self.processor, self.conversations[index]))
        except NOT_LEARNED:  # named where its sample is made, and left out of the pack
            return (index, 1, 0)


class Sizes:
    """Sizes of all conversations: each is measured once, in the background if there are workers."""

    def __init__(
        self, conversations: Conversations, processor: Processor, *, num_workers: int = 0
    ) -> None:
        self.measured, self.num_workers = _Measured(conversations, processor), num_workers
        self.table = torch.zeros(len(conversations), 2, dtype=torch.int32)  # 0 tokens: not yet
        self._ahead: tuple[list[int], Iterator[Any]] = ([], iter(()))

    def of(self, indices: Sequence[int]) -> list[Size]:
        """Sizes of the samples at ``indices``."""
        unknown = self._unknown(indices)
        if unknown:
            wanted, stream = self._ahead
            if wanted != unknown:
                stream = self._start(unknown)
            for batch in stream:
                for index, *size in batch:
                    self.table[index] = torch.tensor(size, dtype=torch.int32)
            self._ahead = ([], iter(()))
        return [Size(*self.table[index].tolist()) for index in indices]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start to measure what will be asked for next."""
        unknown = self._unknown(indices)
        if unknown and self.num_workers:
            self._ahead = (unknown, self._start(unknown))

    def _unknown(self, indices: Sequence[int]) -> list[int]:
        return [index for index in dict.fromkeys(indices) if not self.table[index, 0]]

    def _start(self, indices: list[int]) -> Iterator[Any]:
        batches = -(-len(indices) // _TOGETHER)
        workers = min(self.num_workers, batches)
        loader = DataLoader(
            self.measured,
            _TOGETHER,
            sampler=indices,
            num_workers=workers,
            prefetch_factor=-(-batches // workers) if workers else None,
            collate_fn=list,
        )
        return iter(loader)
