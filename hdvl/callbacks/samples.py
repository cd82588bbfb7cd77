"""Splits a batch into its samples again, each with its text and images as the model gets them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from hdvl.loss import IGNORED
from hdvl.model import VLM
from hdvl.processor import Batch, Sample
from hdvl.protocols import Pixels, TilePlan, lengths_of
from hdvl.views import groups, join_pixels, map_pixels, split_pixels, view_pixels

Kind = Literal["read", "said", "image"]


@dataclass(frozen=True)
class Piece:
    """A piece of a sample's text: input, supervised text, or the slots of an image.

    In all conversations about shared images but the first, the shared beginning is replaced by a note.
    """

    text: str
    kind: Kind


def samples_of(batch: Batch, vlm: VLM) -> list[Sample]:
    """Return the samples that ``batch`` was made of, padded or packed."""
    plans, pixels = list(batch.plans), iter(split_pixels(batch.pixels, batch.plans))
    rows = batch.rows or (None,) * len(list(_places(batch)))
    samples = []
    for (line, place, suffix_lengths), row in zip(_places(batch), rows, strict=True):
        ids = batch.input_ids[line, place].cpu()
        own = _pop_plans(plans, int((ids == vlm.image_token_id).sum()), vlm.merger.token_count)
        shown = [next(pixels) for _ in own] or [groups(batch.pixels)[0][:0]]
        labels = batch.labels[line, place].cpu()
        views = map_pixels(join_pixels(shown), lambda part: part.cpu())
        samples.append(Sample(ids, labels, views, own, row=row, suffix_lengths=suffix_lengths))
    return samples


def pieces_of(sample: Sample, vlm: VLM) -> list[Piece]:
    """Return the text of ``sample`` in pieces. An image is one piece, which names its tokens and tiles."""
    pieces, plans, start = list[Piece](), list(sample.plans), 0
    for number, length in enumerate(lengths_of([sample.segment])):
        if number > 1:
            pieces.append(Piece(f"\n[conversation {number}, which begins as the first]", "image"))
        pieces += _run(sample, slice(start, start + length), plans, vlm)
        start += length
    return pieces


def _run(sample: Sample, place: slice, plans: list[TilePlan], vlm: VLM) -> list[Piece]:
    """Return the pieces at ``place``. Images are taken from ``plans``, each described at its first token."""
    pieces, left = list[Piece](), 0
    pairs = zip(sample.ids[place].tolist(), sample.labels[place].tolist(), strict=True)
    for kind, run in groupby(pairs, key=lambda pair: _kind(pair, vlm.image_token_id)):
        ids = [token for token, _ in run]
        if kind != "image":
            text = vlm.llm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            pieces.append(Piece(text, kind))
            continue
        # Text may occur between the tokens of one image, and images may follow each other directly.
        for plan in _pop_plans(plans, len(ids) - left, vlm.merger.token_count):
            tokens = vlm.merger.token_count(plan)
            size = f"{plan.width}x{plan.height}"
            pieces.append(Piece(f"[image {size}: {tokens} tokens, {plan.count} tiles]", kind))
            left += tokens
        left -= len(ids)
    return pieces


def image_of(
    pixels: Pixels, plan: TilePlan, *, longest: int = 1024
) -> tuple[Image.Image, TilePlan]:
    """Return the image put together from its tiles, at most ``longest`` px a side, and a plan of that size.

    It shows what the encoder gets, including a wrong orientation, colour or cut.
    """
    scale = min(1.0, longest / max(plan.width, plan.height))
    size = (max(1, round(plan.width * scale)), max(1, round(plan.height * scale)))
    views = view_pixels(pixels, plan)
    if plan.windows:
        framed = Image.new("RGB", plan.canvas, (255, 255, 255))
        for tile, place in zip(views[plan.window_slice], plan.windows, strict=True):
            framed.paste(_image(tile), place)
        framed = framed.crop(plan.content)
    else:
        framed = _image(views[0])
        framed = framed.crop(plan.thumbnail_content or (0, 0, *framed.size))
    copy = plan.for_copy(*size)
    x0, y0, x1, y1 = copy.source_frame
    canvas = Image.new("RGB", size, (255, 255, 255))
    canvas.paste(framed.resize((x1 - x0, y1 - y0)), (x0, y0))
    return canvas, copy


def _image(tile: Tensor) -> Image.Image:
    return Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())


def _places(batch: Batch) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    """Yield (line, positions, suffix_lengths) of each sample in the ids of a batch."""
    if batch.segments is None:
        for line, length in enumerate(batch.attention_mask.sum(1).tolist()):
            yield line, slice(0, int(length)), ()
        return
    start = 0
    for segment in batch.segments:
        end = start + sum(lengths_of([segment]))
        yield 0, slice(start, end), () if isinstance(segment, int) else segment[1:]
        start = end


def _pop_plans(
    plans: list[TilePlan], slots: int, count: Callable[[Any], int]
) -> tuple[TilePlan, ...]:
    """Remove and return the first of ``plans`` whose images fill ``slots`` slots."""
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
