"""A batch taken apart again: each sample with its own text and images, as the model gets them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from hdvl.loss import IGNORED
from hdvl.model import VLM
from hdvl.processor import Batch, Sample
from hdvl.protocols import TilePlan, lengths_of

Kind = Literal["read", "said", "image"]


@dataclass(frozen=True)
class Piece:
    """A stretch of a sample's text: what the model reads, what it is to say, or an image's slots.

    What several conversations begin with stands for an image in all of them but the first.
    """

    text: str
    kind: Kind


def samples_of(batch: Batch, vlm: VLM) -> list[Sample]:
    """The samples that ``batch`` was made of, padded or packed: the inverse of making it."""
    plans, tiles = list(batch.plans), 0
    rows = batch.rows or (None,) * len(list(_places(batch)))
    samples = []
    for (line, place, suffix_lengths), row in zip(_places(batch), rows, strict=True):
        ids = batch.input_ids[line, place].cpu()
        own = _take(plans, int((ids == vlm.image_token_id).sum()), vlm.merger.token_count)
        count = sum(plan.count for plan in own)
        labels = batch.labels[line, place].cpu()
        pixels = batch.pixels[tiles : tiles + count].cpu()
        samples.append(Sample(ids, labels, pixels, own, row=row, suffix_lengths=suffix_lengths))
        tiles += count
    return samples


def pieces_of(sample: Sample, vlm: VLM) -> list[Piece]:
    """The text of ``sample`` in pieces; each image is one, which says its tokens and tiles."""
    pieces, plans, start = list[Piece](), list(sample.plans), 0
    for number, length in enumerate(lengths_of([sample.segment])):
        if number > 1:
            pieces.append(Piece(f"\n[conversation {number}, which begins as the first]", "image"))
        pieces += _run(sample, slice(start, start + length), plans, vlm)
        start += length
    return pieces


def _run(sample: Sample, place: slice, plans: list[TilePlan], vlm: VLM) -> list[Piece]:
    """The pieces at ``place``; their images are taken from ``plans``."""
    pieces = list[Piece]()
    pairs = zip(sample.ids[place].tolist(), sample.labels[place].tolist(), strict=True)
    for kind, run in groupby(pairs, key=lambda pair: _kind(pair, vlm.image_token_id)):
        ids = [token for token, _ in run]
        if kind != "image":
            text = vlm.llm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            pieces.append(Piece(text, kind))
            continue
        for plan in _take(plans, len(ids), vlm.merger.token_count):
            tokens = vlm.merger.token_count(plan)
            size = f"{plan.width}x{plan.height}"
            pieces.append(Piece(f"[image {size}: {tokens} tokens, {plan.count} tiles]", kind))
    return pieces


def image_of(
    pixels: UInt8[Tensor, "t c h w"], plan: TilePlan, *, longest: int = 1024
) -> tuple[Image.Image, TilePlan]:
    """The image put together from its tiles, at most ``longest`` px a side, and a plan of that size.

    It shows what the encoder gets: a wrong orientation, colour or cut would be seen.
    """
    scale = min(1.0, longest / max(plan.width, plan.height))
    size = (max(1, round(plan.width * scale)), max(1, round(plan.height * scale)))
    if plan.windows:
        whole = Image.new("RGB", plan.canvas, (255, 255, 255))
        for tile, place in zip(pixels[plan.window_slice], plan.windows, strict=True):
            whole.paste(_image(tile), place)
        whole = whole.crop(plan.content)
    else:
        whole = _image(pixels[0])
    return whole.resize(size), replace(plan, width=size[0], height=size[1])


def _image(tile: Tensor) -> Image.Image:
    return Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())


def _places(batch: Batch) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    """(line, positions, suffix_lengths) of each sample in the ids of a batch."""
    if batch.segments is None:
        for line, length in enumerate(batch.attention_mask.sum(1).tolist()):
            yield line, slice(0, int(length)), ()
        return
    start = 0
    for segment in batch.segments:
        end = start + sum(lengths_of([segment]))
        yield 0, slice(start, end), () if isinstance(segment, int) else segment[1:]
        start = end


def _take(plans: list[TilePlan], slots: int, count: Callable[[Any], int]) -> tuple[TilePlan, ...]:
    """The first of ``plans``, removed from it, whose images fill so many slots."""
    taken = []
    while slots > 0:
        taken.append(plans.pop(0))
        slots -= count(taken[-1])
    return tuple(taken)


def _kind(pair: tuple[int, int], image_token_id: int) -> Kind:
    token, label = pair
    if token == image_token_id:
        return "image"
    return "read" if label == IGNORED else "said"
