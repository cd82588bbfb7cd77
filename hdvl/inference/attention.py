"""What an answer looked at: attention weights of visual tokens as a grid over each source image."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdvl.drawing import draw_heat
from hdvl.images import ImageSource, read_image
from hdvl.inference.open_ended import open_ended
from hdvl.llms.attention import answer_attention
from hdvl.llms.attention import attention_fault as llm_fault
from hdvl.model import VLM
from hdvl.processor import Processor, collate
from hdvl.protocols import Box, Message, PlacedMerger, TilePlan

MOST_CELLS = 512
"""The most cells of a grid on the longer side of an image."""


@dataclass(frozen=True)
class AttentionMap:
    """How much an answer attended to each part of one image.

    Attributes:
        grid: weights over the image (rows, cols), in [0, 1]. A cell has about the size of the smallest
            visual token. Where tiles overlap, or the thumbnail shows the same part, their weights are
            averaged. The grid sums to ``share``.
        tokens: the weight of each visual token (m,), in the order in which the LLM reads them. The weights
            of all positions that the LLM reads, text included, sum to one.
        plan: how the image was cut.
        source: the image.
        exif: whether the image is rotated as its EXIF data say.
    """

    grid: Float[Tensor, "rows cols"]
    tokens: Float[Tensor, " m"]
    plan: TilePlan
    source: ImageSource
    exif: bool = True

    @property
    def share(self) -> float:
        """The part of the attention that went to tokens that show the image, not padding or newlines."""
        return float(self.grid.sum())

    @property
    def tiles(self) -> list[float]:
        """The sum of the grid over each window; windows that overlap share cells."""
        boxes = torch.tensor(self.plan.boxes[self.plan.window_slice]).reshape(-1, 4)
        down, across = coverage(boxes, self.plan, (self.grid.shape[0], self.grid.shape[1]))
        sums: list[float] = torch.einsum("wr,wc,rc->w", down, across, self.grid).tolist()
        return sums

    def draw(self) -> Image.Image:
        """The image with the weights as colours and the outlines of the tiles."""
        return draw_heat(read_image(self.source, exif=self.exif), self.grid.tolist(), self.plan)


def check_attention(vlm: VLM) -> None:
    """Check that the model gives attention weights, and that its visual tokens have places in an image.

    Raises:
        ValueError: it does not, or they have none.
    """
    fault = attention_fault(vlm)
    if fault is not None:
        raise ValueError(
            f"attention needs weights of visual tokens that have a place in the image: {fault}"
        )


def attention_fault(vlm: VLM) -> str | None:
    """Return why the model does not say what it attends to in an image; ``None`` if it does."""
    fault = llm_fault(vlm.llm)
    bridge, merger = type(vlm.bridge).__name__, type(vlm.merger).__name__
    if fault is None and not getattr(vlm.bridge, "has_places", True):
        fault = f"each token of the bridge {bridge} is a query that attends to a whole tile"
    if fault is None and not getattr(vlm.bridge, "raster_order", True):
        fault = f"the tokens of the bridge {bridge} are not in raster order"
    if fault is None and not isinstance(vlm.merger, PlacedMerger):
        fault = f"the merger {merger} does not say where its tokens are"
    return fault


@torch.inference_mode()
def attention_maps(
    vlm: VLM,
    processor: Processor,
    messages: Sequence[Message],
    answer: str,
    layers: Sequence[int] | None = None,
) -> tuple[AttentionMap, ...]:
    """Return what an answer attended to, for each image of a conversation.

    Args:
        vlm: the model.
        processor: the processor of the model.
        messages: the conversation before the answer, with its images.
        answer: the text of the answer.
        layers: indices of the LLM's layers that attend; all of them if ``None``.

    Raises:
        ValueError: there is no image, or the model does not support it, see :func:`check_attention`.
    """
    check_attention(vlm)
    images = [image for message in messages for image in message.images]
    if not images:
        raise ValueError("attention needs an image in the conversation, got none")
    if not answer:
        raise ValueError("attention needs an answer of at least one token, got an empty one")
    sample, count = open_ended(processor, (*messages, Message("assistant", answer)))
    batch = collate([sample], pad_id=0).to(next(vlm.parameters()).device)
    visual = vlm.encode_images(batch.pixels, batch.plans)
    embeddings = vlm.merge_image_tokens(batch.input_ids, visual)
    weights = answer_attention(vlm.llm, embeddings, count, layers)
    slots = weights[batch.input_ids[0] == vlm.image_token_id].cpu()
    tokens = torch.split(slots, [len(part) for part in visual])
    return tuple(
        AttentionMap(
            token_grid(part, token_places(vlm, plan), plan), part, plan, image, vlm.tiler.exif
        )
        for part, plan, image in zip(tokens, sample.plans, images, strict=True)
    )


def token_places(vlm: VLM, plan: TilePlan) -> tuple[Box | None, ...]:
    """Return the rectangle of each visual token in pixels of the source image, see :class:`PlacedMerger`."""
    assert isinstance(vlm.merger, PlacedMerger)  # as check_attention found
    return vlm.merger.places(plan)


def token_grid(
    tokens: Float[Tensor, " m"], places: Sequence[Box | None], plan: TilePlan
) -> Float[Tensor, "rows cols"]:
    """Return the weights of tokens as a grid over the image, averaged where tokens overlap.

    The weight of a token is spread evenly over its rectangle. Parts of rectangles outside of the image are
    padding and do not count; a token without any part in it is left out.
    """
    limits = torch.tensor([plan.width, plan.height] * 2, dtype=torch.float64)
    boxes = torch.tensor(
        [(0.0,) * 4 if box is None else box for box in places], dtype=torch.float64
    )
    inside = torch.minimum(boxes.clamp(min=0), limits)
    sides = (inside[:, 2:] - inside[:, :2]).clamp(min=0)
    seen = sides.prod(1) > 0
    if not seen.any():
        return torch.zeros(1, 1)
    smallest = (boxes[seen, 2:] - boxes[seen, :2]).amin(0).tolist()
    cell = max(plan.width / MOST_CELLS, plan.height / MOST_CELLS)
    size = (
        ceil(plan.height / max(cell, smallest[1]) - 1e-6),
        ceil(plan.width / max(cell, smallest[0]) - 1e-6),
    )
    weight = tokens[seen].double()
    down, across = coverage(inside[seen], plan, size)
    area = down.sum(1) * across.sum(1)
    total = torch.einsum("m,mr,mc->rc", weight / area, down, across)
    cover = torch.einsum("mr,mc->rc", down, across)
    grid = torch.where(cover > 0, total / cover.clamp(min=1e-12), 0.0)
    return (grid * (weight.sum() / grid.sum().clamp(min=1e-30))).float()


def coverage(
    boxes: Float[Tensor, "m 4"], plan: TilePlan, size: tuple[int, int]
) -> tuple[Float[Tensor, "m rows"], Float[Tensor, "m cols"]]:
    """Return what part of each row and of each column of a grid over the image each rectangle covers."""
    covers = []
    for axis, (count, side) in enumerate(zip(size, (plan.height, plan.width), strict=True)):
        edges = torch.arange(count + 1, dtype=boxes.dtype) * (side / count)
        low, high = boxes[:, 1 - axis, None], boxes[:, 3 - axis, None]
        overlap = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])
        covers.append(overlap.clamp(min=0) * (count / side))
    return covers[0], covers[1]
