"""Measures the CPU time of each stage of a sample, and the samples per second of a loader."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hdvl.data.conversations import Conversations
from hdvl.images import read_image
from hdvl.processor import Batch, Processor, collate
from hdvl.protocols import tiler_for
from hdvl.templates.shared_prefix import encode_row, images_of

STAGES = ("read", "decode", "tile", "tokenise", "collate")


@dataclass(frozen=True)
class Split:
    """CPU seconds of each stage, for ``samples`` samples with ``tiles`` tiles and ``tokens`` ids in total."""

    seconds: dict[str, float]
    samples: int
    tiles: int
    tokens: int


def split_time(
    conversations: Conversations, processor: Processor, indices: Sequence[int], *, pad_id: int
) -> Split:
    """Time the stages one after the other, in this process.

    Tiling is timed on decoded images. Decoding is the additional time for an image file. ``read`` is the time
    for the row without its images, ``collate`` that for one batch of all samples.
    """
    seconds = dict.fromkeys(STAGES, 0.0)
    samples, tiles, tokens = [], 0, 0
    for index in indices:
        start = time.process_time()
        messages = conversations[index]
        read = time.process_time()
        images = images_of(messages)
        tiler = tiler_for(processor.tiler, len(images))
        tile_results = [tiler(image) for image in images]
        read_and_tile = time.process_time() - read
        decoded = [read_image(image, exif=tiler.exif) for image in images]
        started = time.process_time()
        for image in decoded:
            tiler(image)
        tile = time.process_time() - started
        layouts = [processor.layout(item.plan) for item in tile_results]
        text = time.process_time()
        row = encode_row(processor.template, processor.tokenizer, messages, layouts)
        seconds["tokenise"] += time.process_time() - text
        seconds["read"] += read - start
        seconds["tile"] += min(tile, read_and_tile)
        seconds["decode"] += max(0.0, read_and_tile - tile)
        tiles, tokens = tiles + sum(item.plan.count for item in tile_results), tokens + len(row.ids)
        samples.append(processor(messages))
    start = time.process_time()
    collate(samples, pad_id=pad_id)
    seconds["collate"] = time.process_time() - start
    return Split(seconds, len(samples), tiles, tokens)


def samples_per_second(loader: Iterable[Any], batches: int, *, warm: int = 2) -> float:
    """The wall-clock rate of ``loader`` over ``batches`` batches, after ``warm`` batches.

    Raises:
        ValueError: the loader has fewer batches.
    """
    stream = iter(loader)
    for _ in islice(stream, warm):
        pass
    start, count, seen = time.perf_counter(), 0, 0
    batch: Batch
    for batch in islice(stream, batches):
        count += len(batch.input_ids)
        seen += 1
    if seen < batches:
        raise ValueError(f"the loader must have {warm + batches} batches, got {warm + seen}")
    seconds = time.perf_counter() - start
    del stream
    return count / seconds
