"""Reads only those windows of an image that a question needs, chosen by a first look at the thumbnail.

The first look is a forward pass over the thumbnail and the question. The windows that show what the question
attends to in the thumbnail are kept, and the others are neither encoded nor read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.inference.attention import attention_fault, coverage, token_grid, token_places
from hdvl.inference.engine import Engine
from hdvl.inference.image_prompt import ImagePrompt
from hdvl.llms.attention import answer_attention
from hdvl.model import VLM
from hdvl.processor import Processor, Sample
from hdvl.protocols import Message, TilePlan, Tiles
from hdvl.views import join_pixels, split_pixels, view_pixels

SELECT_TILES = 8
"""The number of windows of an image that a selection keeps by default."""

WAYS = ("thumbnail",)

Encode = Callable[[Processor, Sequence[Message]], Sample]
"""Function that makes the sample of a conversation."""


@dataclass(frozen=True)
class Budget:
    """How much of each image a question may use.

    Attributes:
        max_tiles: the most tiles of an image, its thumbnail not counted; ``None`` for the tiler's limit.
        select: ``thumbnail`` keeps the windows that the question attends to in the thumbnail; ``None``
            keeps all.
        select_tiles: the number of windows that are kept.

    Raises:
        ValueError: ``select`` is neither, or ``select_tiles`` is below 1.
    """

    max_tiles: int | None = None
    select: str | None = None
    select_tiles: int = SELECT_TILES

    def __post_init__(self) -> None:
        if self.select not in (None, *WAYS):
            raise ValueError(f"select must be thumbnail or null, got {self.select!r}")
        number = self.select_tiles
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"select_tiles must be a whole number of at least 1, got {number!r}")


WHOLE = Budget()
"""All windows of each image."""


def cut_images(sample: Sample, messages: Sequence[Message]) -> dict[int, Tiles]:
    """Return the tiles of each image of a sample by its ``id``.

    Args:
        sample: the sample.
        messages: the messages that the sample holds, see :meth:`hdvl.processor.Sample.read`.
    """
    images = [image for message in messages for image in message.images]
    parts = split_pixels(sample.pixels, sample.plans)
    found = zip(images, parts, sample.plans, strict=True)
    return {id(image): Tiles(pixels, plan) for image, pixels, plan in found}


def keep_windows(tiles: Tiles, windows: Sequence[int]) -> Tiles:
    """Return the thumbnail and some windows of an image.

    Args:
        tiles: all tiles of the image.
        windows: increasing indices of the windows to keep.
    """
    plan = tiles.plan.subset(windows)
    start, thumbnail = tiles.plan.window_slice.start, tiles.plan.thumbnail_index
    chosen = {start + index for index in windows} | {thumbnail}
    views = view_pixels(tiles.pixels, tiles.plan)
    kept = [view[None] for index, view in enumerate(views) if index in chosen]
    return Tiles(join_pixels(kept), plan)


def with_windows(
    processor: Processor,
    messages: Sequence[Message],
    sample: Sample,
    encode: Encode,
    windows: Mapping[int, Sequence[int]],
) -> Sample:
    """Return the sample of a conversation with only some windows of its images.

    Args:
        processor: the processor that made ``sample``.
        messages: the messages that ``sample`` holds.
        sample: the sample with all windows.
        encode: makes a sample.
        windows: for the ``id`` of an image the windows to keep; images that are not listed keep all.
    """
    cut = cut_images(sample, messages)
    kept = {
        key: keep_windows(tiles, windows[key]) if key in windows else tiles
        for key, tiles in cut.items()
    }
    found = encode(replace(processor, cut=kept), messages)
    before, after = (sum(len(plan.windows) for plan in one.plans) for one in (sample, found))
    return replace(
        found,
        dropped=sample.dropped,
        blank_tiles=sample.blank_tiles,
        unselected_tiles=before - after,
    )


def select_windows(
    engine: Engine,
    processor: Processor,
    messages: Sequence[Message],
    sample: Sample,
    encode: Encode,
    budget: Budget,
) -> Sample:
    """Return ``sample`` with only those windows that the question attends to in the thumbnails.

    Images of at most ``budget.select_tiles`` windows are left as they are.

    Args:
        engine: the engine of the model, which pauses meanwhile.
        processor: the processor that made ``sample``.
        messages: the conversation that ``sample`` was made from.
        sample: the conversation with all windows.
        encode: makes a sample.
        budget: the number of windows.

    Raises:
        ValueError: the model gives no attention weights, an image has no thumbnail, or the merger needs
            all windows.
    """
    read = sample.read(messages)
    count = budget.select_tiles
    many = {
        key: tiles.plan
        for key, tiles in cut_images(sample, read).items()
        if len(tiles.plan.windows) > count
    }
    if budget.select is None or not many:
        return sample
    check_selection(engine.model, list(many.values()))
    first = with_windows(processor, read, sample, encode, dict.fromkeys(many, ()))
    images = [image for message in read for image in message.images]
    found: dict[int, Tensor] = {}
    for image, weights in zip(images, thumbnail_weights(engine, first), strict=True):
        key = id(image)
        if key in many:
            scores = window_scores(engine.model, many[key], weights)
            # An image may be shown twice.
            found[key] = found[key] + scores if key in found else scores
    windows = {key: best_windows(values, count) for key, values in found.items()}
    return with_windows(processor, read, sample, encode, windows)


def check_selection(vlm: VLM, plans: Sequence[TilePlan]) -> None:
    """Check that windows can be selected from images that are cut as in ``plans``.

    Raises:
        ValueError: they cannot.
    """
    fault = attention_fault(vlm)
    if fault is not None:
        raise ValueError(
            f"select=thumbnail needs to know what the question attends to in the image: {fault}; leave "
            "select out"
        )
    for plan in plans:
        if plan.thumbnail is None:
            raise ValueError(
                f"select=thumbnail needs a thumbnail of each image, the tiler {type(vlm.tiler).__name__} "
                "gives none; leave select out, or set tiler.thumbnail=first if the model was trained so"
            )
        try:
            vlm.merger.token_count(plan.subset([]))
            vlm.merger.token_count(plan.subset([0]))
        except ValueError as error:
            raise ValueError(
                f"select=thumbnail keeps some windows of an image alone, and {error}"
            ) from error


@torch.inference_mode()
def thumbnail_weights(engine: Engine, sample: Sample) -> list[Float[Tensor, " _m"]]:
    """Return how much the text after the last image attends to each visual token, for each image.

    The weights are means over the layers, the heads and the positions from the end of the last image to the
    end of the prompt.

    Args:
        engine: the engine of the model.
        sample: the prompt.
    """
    vlm, ids = engine.model, sample.ids
    prompt = ImagePrompt(
        vlm, ids, sample.pixels, sample.plans, engine.image_cache, engine.feature_cache
    )
    slots = ids == vlm.image_token_id
    count = len(ids) - 1 - int(slots.nonzero()[-1])
    with engine.paused():
        embeddings = prompt.embeddings(0)
        # The weights are those of the positions before the last one, so one more is added.
        longer = torch.cat((embeddings, embeddings[-1:]))[None]
        weights = answer_attention(vlm.llm, longer, count)[: len(ids)]
    return list(torch.split(weights[slots.to(weights.device)].cpu(), prompt.counts))


def window_scores(
    vlm: VLM, plan: TilePlan, weights: Float[Tensor, " m"]
) -> Float[Tensor, " windows"]:
    """Return the part of the weights of a thumbnail that lies in each window.

    Args:
        vlm: the model.
        plan: how the image was cut, with all windows.
        weights: the weight of each token of the thumbnail.
    """
    alone = plan.subset([])
    grid = token_grid(weights, token_places(vlm, alone), alone)
    boxes = torch.tensor(plan.boxes[plan.window_slice])
    down, across = coverage(boxes, plan, (grid.shape[0], grid.shape[1]))
    return torch.einsum("wr,wc,rc->w", down, across, grid)


def best_windows(scores: Float[Tensor, " windows"], count: int) -> list[int]:
    """Return the increasing indices of the ``count`` windows with the highest scores.

    >>> best_windows(torch.tensor([0.1, 0.4, 0.2, 0.3]), 2)
    [1, 3]
    """
    found: list[int] = sorted(scores.topk(count).indices.tolist())
    return found


def encode_prompt(processor: Processor, messages: Sequence[Message]) -> Sample:
    """Return the sample of a conversation that ends with a question."""
    return processor(messages, add_generation_prompt=True)
