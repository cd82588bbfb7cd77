"""Conversations with images -> what the model reads. One way for training and inference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from hdvl.views import join_pixels, map_pixels


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for the model; or several about the same images, none of which sees
    another: ``suffix_lengths`` are then the lengths of what each of them adds to their common beginning.

    ``dropped`` of its messages, the oldest after the system's, did not fit into the template's window.
    ``row`` is its number in the training data.
    """

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    pixels: Pixels
    plans: tuple[TilePlan, ...]
    dropped: int = 0
    row: int | None = None
    suffix_lengths: tuple[int, ...] = ()

    @property
    def segment(self) -> Segment:
        """What it is in a packed row: its length, or those of the beginning and of each branch."""
        length = len(self.ids)
        return (
            (length - sum(self.suffix_lengths), *self.suffix_lengths)
            if self.suffix_lengths
            else length
        )

    def read(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Those of ``messages``, which this is a sample of, that the model reads."""
        head = int(messages[0].role == "system") if messages else 0
        return (*messages[:head], *messages[head + self.dropped :])


@dataclass(frozen=True)
class Batch:
    """Several samples, padded to one length; views of all images stand behind each other.

    With ``segments`` the samples were packed: one row holds them all, and these are their lengths; of
    a sample of several conversations the length of what they begin with, and of the rest of each.
    ``left_out`` are (name, reason) of rows that no sample could be made of.
    ``rows`` are the numbers of the samples in the training data.
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
        """The batch on ``device``."""
        names = ("input_ids", "labels", "attention_mask")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved, pixels=map_pixels(self.pixels, lambda part: part.to(device)))


@dataclass(frozen=True)
class Processor:
    """Tiles the images, writes the conversation, and gives each image its slots.

    It holds no weights, so it can be sent to data workers. ``max_length`` is the most ids of a sample:
    longer samples raise, nothing is truncated. ``context`` is the limit of the language model.
    """

    tiler: Tiler
    template: Template
    tokenizer: Any
    layout: Callable[[TilePlan], Layout]
    max_length: int | None = None
    context: int | None = None

    @classmethod
    def of(cls, vlm: VLM, *, max_length: int | None = None) -> "Processor":
        """The processor that fits a model."""
        llm = vlm.llm
        return cls(
            vlm.tiler, vlm.template, llm.tokenizer, vlm.merger.layout, max_length, llm.context
        )

    def token_count(self, plan: TilePlan) -> int:
        """Visual tokens that an image cut by ``plan`` takes."""
        return token_count(self.layout(plan))

    def check_context(self, length: int, suffix_lengths: Sequence[int] = ()) -> None:
        """Refuse ids that the language model cannot read.

        Args:
            length: all ids of a sample.
            suffix_lengths: of independent conversations what each adds to their common beginning.

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
        """Messages with images -> ids, labels, pixels and plans.

        A prompt leaves out what the template's window does not hold. The images of independent
        conversations are cut and encoded once.
        """
        tokenizer = needed(self.tokenizer)
        if isinstance(messages, SharedPrefix):
            if add_generation_prompt:
                raise ValueError("a prompt must be one conversation, got independent ones")
            return self._shared(messages)
        tiler = tiler_for(self.tiler, sum(len(message.images) for message in messages))
        cut: dict[int, list[Tiles]] = {}

        def tiles_of(part: Sequence[Message]) -> list[Tiles]:
            for message in part:
                if id(message) not in cut:
                    cut[id(message)] = [tiler(image) for image in message.images]
            return [item for message in part for item in cut[id(message)]]

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
        )

    def _shared(self, several: SharedPrefix) -> Sample:
        images = images_of(several)
        tiler = tiler_for(self.tiler, len(images))
        tiles = [tiler(image) for image in images]
        layouts = [self.layout(item.plan) for item in tiles]
        row = encode_row(
            self.template, self.tokenizer, several, layouts, max_length=self.max_length
        )
        self.check_context(len(row.ids), row.suffix_lengths)
        plans = tuple(item.plan for item in tiles)
        return Sample(
            row.ids, row.labels, self._pixels(tiles), plans, suffix_lengths=row.suffix_lengths
        )

    def _pixels(self, tiles: Sequence[Tiles]) -> Pixels:
        size = self.tiler.tile_size
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return join_pixels([empty, *(item.pixels for item in tiles)])


def needed(tokenizer: Any) -> Any:
    """``tokenizer``, if there is one: a model may have been loaded from a folder of weights alone.

    Raises:
        ValueError: there is none.
    """
    if tokenizer is None:
        raise ValueError(
            "text needs a tokenizer, this model was loaded without one; put the published "
            "tokenizer.json and tokenizer_config.json beside its weights"
        )
    return tokenizer


def collate(
    samples: Sequence[Sample], *, pad_id: int, side: Literal["left", "right"] = "right"
) -> Batch:
    """Pad to the longest sample: on the right for training, on the left for generation.

    Samples of several conversations are packed instead, with all others of their batch: their numbers
    are the same, and nothing is padded.
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
    """One row of all samples behind each other: nothing is padded. ``segments`` say what is whose."""
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
