"""The numbers of tokens and tiles of a conversation, from its text and the headers of its images."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from hdvl.data.conversations import Conversations
from hdvl.data.faults import SkippedRow, attempt
from hdvl.images import MAX_PIXELS, name_of, open_image, orientation, read_image
from hdvl.processor import Processor
from hdvl.protocols import Conversation, TilePlan, Tiler, tiler_for
from hdvl.templates.shared_prefix import encode_row, images_of
from hdvl.tilers.base import Cutter

_TOGETHER = 16
"""The number of conversations that a worker measures at a time."""


class Size(NamedTuple):
    """The size of a sample, as it counts for a budget."""

    tokens: int
    tiles: int


@runtime_checkable
class Limited(Protocol):
    """A tiler with a limit on the size of images."""

    @property
    def max_pixels(self) -> int: ...
    def checked_plan(self, width: int, height: int) -> TilePlan: ...


def image_size(source: Any, *, exif: bool, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of the upright image. Pixels are decoded only for TIFF files."""
    image = open_image(source, max_pixels=max_pixels)
    if image.format == "TIFF":  # Pillow rotates them while decoding
        return read_image(source, exif=exif, max_pixels=max_pixels).size
    width, height = image.size
    transposed = exif and orientation(image, name=name_of(source)) >= 5
    return (height, width) if transposed else (width, height)


def size_by(tiler: Tiler, source: Any) -> tuple[int, int]:
    """Width and height of the image for ``tiler``, with its EXIF option and its limit of pixels.

    Boxes in rows, plans and drawings all use this size.
    """
    return image_size(source, exif=tiler.exif, max_pixels=max_pixels_of(tiler))


def max_pixels_of(tiler: Tiler) -> int:
    """The largest number of pixels of an image; Pillow's limit for a tiler without one."""
    return tiler.max_pixels if isinstance(tiler, Limited) else MAX_PIXELS


def plan_by(tiler: Tiler, size: tuple[int, int]) -> TilePlan:
    """The plan of ``tiler`` for an image of ``size``; sizes that the tiler rejects raise its error."""
    return tiler.checked_plan(*size) if isinstance(tiler, Limited) else tiler.plan(*size)


def plan_image(tiler: Tiler, source: Any) -> TilePlan:
    """The plan of ``tiler`` for an image, by its header, or from its pixels if the plan depends on these."""
    if isinstance(tiler, Cutter) and tiler.skip_blank:
        return tiler(source).plan
    return plan_by(tiler, size_by(tiler, source))


def measure(processor: Processor, messages: Conversation) -> Size:
    """The size of the sample that ``processor`` makes of ``messages``."""
    images = images_of(messages)
    tiler = tiler_for(processor.tiler, len(images))
    plans = [plan_image(tiler, image) for image in images]
    row = encode_row(
        processor.template,
        processor.tokenizer,
        messages,
        [processor.layout(plan) for plan in plans],
        max_length=processor.max_length,
    )
    processor.check_context(len(row.ids), row.suffix_lengths)
    return Size(tokens=len(row.ids), tiles=sum(plan.count for plan in plans))


class _Measured(Dataset[tuple[int, int, int]]):
    """Sizes of conversations, which the workers measure when they access them."""

    def __init__(self, conversations: Conversations, processor: Processor) -> None:
        self.conversations, self.processor = conversations, processor

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        size = attempt(self.conversations, index, partial(measure, self.processor))
        # A row that fails is named when its sample is made, and is left out of the pack then.
        return (index, 1, 0) if isinstance(size, SkippedRow) else (index, *size)


class Sizes:
    """The sizes of all conversations. Each is measured once, in the background if there are workers."""

    def __init__(
        self, conversations: Conversations, processor: Processor, *, num_workers: int = 0
    ) -> None:
        self.measured, self.num_workers = _Measured(conversations, processor), num_workers
        self.table = torch.zeros(
            len(conversations), 2, dtype=torch.int32
        )  # 0 tokens: not measured yet
        self._ahead: tuple[list[int], Iterator[Any]] = ([], iter(()))

    def of(self, indices: Sequence[int]) -> list[Size]:
        """Sizes of the samples at ``indices``."""
        unknown = self._unknown(indices)
        if unknown:
            ahead, stream = self._ahead
            if ahead != unknown:
                stream = self._start(unknown)
            for batch in stream:
                for index, *size in batch:
                    self.table[index] = torch.tensor(size, dtype=torch.int32)
            self._ahead = ([], iter(()))
        return [Size(*self.table[index].tolist()) for index in indices]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start to measure the samples that will be needed next."""
        unknown = self._unknown(indices)
        if unknown and self.num_workers and self._ahead[0] != unknown:
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
