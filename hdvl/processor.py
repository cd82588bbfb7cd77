"""Preprocessing of conversations with images, the same for training and inference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hdvl.model import IGNORED, VLM
from hdvl.protocols import (
    Conversation,
    Layout,
    Message,
    Pixels,
    Rendered,
    Segment,
    SharedPrefix,
    Template,
    TilePlan,
    Tiler,
    Tiles,
    tiler_for,
    token_count,
)
from hdvl.templates.encode import encode, prompt_length
from hdvl.templates.shared_prefix import encode_row, images_of
from hdvl.tilers.limits import with_max_tiles
from hdvl.tilers.recent import RecentTiles
from hdvl.views import join_pixels, map_pixels


@dataclass(frozen=True)
class Sample:
    """One conversation as tensors, or several conversations that share a prefix with the same images.

    Attributes:
        ids: token ids (s,), with the image token in the image slots.
        labels: the ids to predict (s,); -100 where a position is not supervised.
        pixels: the views of all images.
        plans: how each image was cut, in order of appearance.
        dropped: the number of messages left out because they did not fit into the template's window;
            the oldest ones after the system message.
        row: the index of the sample in the training data.
        suffix_lengths: the number of ids that each conversation adds to the shared prefix; empty for a
            single conversation.
        blank_tiles: the number of blank windows that the tiler left out.
        unselected_tiles: the number of windows that were left out by a selection.
    """

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    pixels: Pixels
    plans: tuple[TilePlan, ...]
    dropped: int = 0
    row: int | None = None
    suffix_lengths: tuple[int, ...] = ()
    blank_tiles: int = 0
    unselected_tiles: int = 0

    @property
    def segment(self) -> Segment:
        """The length of the sample, or the lengths of the shared prefix and of each continuation."""
        length = len(self.ids)
        return (
            (length - sum(self.suffix_lengths), *self.suffix_lengths)
            if self.suffix_lengths
            else length
        )

    def read(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages that the model reads: ``messages`` without the dropped ones.

        Args:
            messages: the conversation that the sample was made from.
        """
        head = int(messages[0].role == "system") if messages else 0
        return (*messages[:head], *messages[head + self.dropped :])


@dataclass(frozen=True)
class Batch:
    """Several samples, either padded to one length or packed into one row.

    Attributes:
        input_ids: token ids (b, s).
        labels: the ids to predict (b, s); -100 where a position is not supervised.
        attention_mask: 1 for tokens and 0 for padding (b, s).
        pixels: the views of all images of the batch, in order.
        plans: how each image was cut, in order of appearance.
        segments: the segment of each packed sample (:attr:`Sample.segment`); ``None`` for a padded batch.
        left_out: (name, reason) of the rows of the data that could not be read.
        rows: the index of each sample in the training data.
    """

    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    pixels: Pixels
    plans: tuple[TilePlan, ...]
    segments: tuple[Segment, ...] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    rows: tuple[int | None, ...] = ()

    def to(self, device: torch.device | str) -> "Batch":
        """Return a copy of the batch on ``device``."""
        names = ("input_ids", "labels", "attention_mask")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, pixels=map_pixels(self.pixels, lambda part: part.to(device)))


@dataclass(frozen=True)
class Processor:
    """Cuts the images of a conversation, renders its text, and inserts the image slots.

    It holds no weights, so it can be sent to data workers.

    Attributes:
        tiler: cuts images into tiles.
        template: writes conversations as text.
        tokenizer: the tokenizer of the language model; ``None`` if it was loaded without one.
        layout: returns the text and the numbers of visual tokens that stand for an image.
        max_length: the most ids of a sample. Longer samples raise; nothing is truncated.
        context: the most ids that the language model can read; ``None`` for no limit.
        recent: keeps the tiles of the last images; ``None`` cuts an image each time.
        cut: the tiles of images that are cut already, by the ``id`` of the image; ``tiler`` cuts the others.
    """

    tiler: Tiler
    template: Template
    tokenizer: Any
    layout: Callable[[TilePlan], Layout]
    max_length: int | None = None
    context: int | None = None
    recent: RecentTiles | None = None
    cut: Mapping[int, Tiles] = field(default_factory=dict)

    @classmethod
    def of(cls, vlm: VLM, *, max_length: int | None = None, recent: bool = False) -> "Processor":
        """Return the processor of a model; with ``recent`` one that keeps the tiles of the last images."""
        return cls(
            vlm.tiler,
            vlm.template,
            vlm.llm.tokenizer,
            vlm.merger.layout,
            max_length,
            vlm.llm.context,
            RecentTiles() if recent else None,
        )

    def limited(self, max_tiles: int | None) -> "Processor":
        """Return the processor with at most ``max_tiles`` tiles of an image; ``None`` changes nothing.

        Raises:
            ValueError: ``max_tiles`` is below 1, or the tiler cannot be limited.
        """
        if max_tiles is None:
            return self
        return replace(self, tiler=with_max_tiles(self.tiler, max_tiles))

    def token_count(self, plan: TilePlan) -> int:
        """Return the number of visual tokens of an image that was cut by ``plan``."""
        return token_count(self.layout(plan))

    def check_context(self, length: int, suffix_lengths: Sequence[int] = ()) -> None:
        """Check that a sample fits the context of the language model.

        Args:
            length: the number of ids of the sample.
            suffix_lengths: the number of ids that each conversation adds to a shared prefix.

        Raises:
            ValueError: a conversation is longer than the model's context.
        """
        longest = length - sum(suffix_lengths) + max(suffix_lengths, default=0)
        if self.context is not None and longest > self.context:
            raise ValueError(
                f"a conversation must fit the context of the language model, {self.context} ids, got "
                f"{longest}; use fewer tiles, a shorter history or an llm with a longer context"
            )

    def __call__(self, messages: Conversation, *, add_generation_prompt: bool = False) -> Sample:
        """Convert a conversation with images to a sample.

        Args:
            messages: one conversation, or several that share their images.
            add_generation_prompt: whether to end with the beginning of an answer. Such a prompt leaves
                out the oldest messages that do not fit into the template's window.

        Raises:
            ValueError: there is no tokenizer, the sample is too long, or a prompt was requested for
                several conversations.
        """
        tokenizer = require_tokenizer(self.tokenizer)
        if isinstance(messages, SharedPrefix):
            if add_generation_prompt:
                raise ValueError("a prompt must be one conversation, got independent ones")
            return self._shared(messages)
        tiler = tiler_for(self.tiler, sum(len(message.images) for message in messages))
        tiles_by_message: dict[int, list[Tiles]] = {}

        def tiles_of(part: Sequence[Message]) -> list[Tiles]:
            for message in part:
                if id(message) not in tiles_by_message:
                    found = [self._cut(tiler, image) for image in message.images]
                    tiles_by_message[id(message)] = found
            return [item for message in part for item in tiles_by_message[id(message)]]

        def length(rendered: Rendered, part: Sequence[Message]) -> int:
            layouts = [self.layout(item.plan) for item in tiles_of(part)]
            return prompt_length(self.template, tokenizer, rendered, layouts)

        prompt = self.template.recent(messages, length) if add_generation_prompt else messages
        tiles = tiles_of(prompt)
        encoded = encode(
            self.template,
            tokenizer,
            prompt,
            [self.layout(item.plan) for item in tiles],
            add_generation_prompt=add_generation_prompt,
            max_length=self.max_length,
        )
        self.check_context(len(encoded.ids))
        return Sample(
            ids=encoded.ids,
            labels=encoded.labels,
            pixels=self._pixels(tiles),
            plans=tuple(item.plan for item in tiles),
            dropped=len(messages) - len(prompt),
            blank_tiles=_blank_tiles(tiler, tiles),
        )

    def _shared(self, several: SharedPrefix) -> Sample:
        images = images_of(several)
        tiler = tiler_for(self.tiler, len(images))
        tiles = [self._cut(tiler, image) for image in images]
        layouts = [self.layout(item.plan) for item in tiles]
        row = encode_row(
            self.template, self.tokenizer, several, layouts, max_length=self.max_length
        )
        self.check_context(len(row.ids), row.suffix_lengths)
        plans = tuple(item.plan for item in tiles)
        return Sample(
            row.ids, row.labels, self._pixels(tiles), plans, suffix_lengths=row.suffix_lengths
        )

    def _cut(self, tiler: Tiler, image: Any) -> Tiles:
        if id(image) in self.cut:
            return self.cut[id(image)]
        return tiler(image) if self.recent is None else self.recent(tiler, image)

    def _pixels(self, tiles: Sequence[Tiles]) -> Pixels:
        size = self.tiler.tile_size
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return join_pixels([empty, *(item.pixels for item in tiles)])


def _blank_tiles(tiler: Tiler, tiles: Sequence[Tiles]) -> int:
    """The number of windows that ``tiler`` left out because they are blank."""
    if not getattr(tiler, "skip_blank", False):
        return 0
    plans = (item.plan for item in tiles)
    return sum(tiler.plan(plan.width, plan.height).count - plan.count for plan in plans)


def require_tokenizer(tokenizer: Any) -> Any:
    """Return ``tokenizer`` if it is not ``None``.

    Raises:
        ValueError: it is ``None``, as for a model loaded from a folder that holds weights only.
    """
    if tokenizer is None:
        raise ValueError(
            "text needs a tokenizer, this model was loaded without one; put the published "
            "tokenizer.json and tokenizer_config.json into the folder of its weights"
        )
    return tokenizer


def collate(
    samples: Sequence[Sample], *, pad_id: int, side: Literal["left", "right"] = "right"
) -> Batch:
    """Batch samples by padding them to the longest one.

    If a sample holds several conversations, all samples are packed into one row instead, which gives
    the same logits.

    Args:
        samples: the samples of the batch.
        pad_id: the id of padding.
        side: where to pad; ``right`` for training, ``left`` for generation.
    """
    if any(sample.suffix_lengths for sample in samples):
        return pack(samples)

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)

    return Batch(
        input_ids=pad([sample.ids for sample in samples], pad_id),
        labels=pad([sample.labels for sample in samples], IGNORED),
        attention_mask=pad([torch.ones_like(sample.ids) for sample in samples], 0),
        pixels=join_pixels([sample.pixels for sample in samples]),
        plans=tuple(plan for sample in samples for plan in sample.plans),
        rows=tuple(sample.row for sample in samples),
    )


def pack(samples: Sequence[Sample]) -> Batch:
    """Batch samples by concatenating them into one row, without padding."""
    ids = torch.cat([sample.ids for sample in samples])[None]
    return Batch(
        input_ids=ids,
        labels=torch.cat([sample.labels for sample in samples])[None],
        attention_mask=torch.ones_like(ids),
        pixels=join_pixels([sample.pixels for sample in samples]),
        plans=tuple(plan for sample in samples for plan in sample.plans),
        segments=tuple(sample.segment for sample in samples),
        rows=tuple(sample.row for sample in samples),
    )
