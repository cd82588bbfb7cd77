"""Conversations with pictures -> what the model reads. One way for training and inference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hdvl.model import IGNORED, VLM
from hdvl.protocols import Message, Template, TilePlan, Tiler
from hdvl.templates.encode import encode


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for the model."""

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    pixels: UInt8[Tensor, "t c h w"]
    plans: tuple[TilePlan, ...]


@dataclass(frozen=True)
class Batch:
    """Several samples, padded to one length; tiles of all pictures stand behind each other."""

    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    pixels: UInt8[Tensor, "t c h w"]
    plans: tuple[TilePlan, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on ``device``."""
        return Batch(
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            attention_mask=self.attention_mask.to(device),
            pixels=self.pixels.to(device),
            plans=self.plans,
        )


@dataclass(frozen=True)
class Processor:
    """Tiles the pictures, writes the conversation, and gives each picture its slots.

    Holds no weights: safe to send to data workers. ``max_length`` (ids) is a limit, not a knife: a
    longer sample is an error that says how long it is.
    """

    tiler: Tiler
    template: Template
    tokenizer: Any
    token_count: Callable[[TilePlan], int]
    max_length: int | None = None

    @classmethod
    def of(cls, vlm: VLM, *, max_length: int | None = None) -> "Processor":
        """The processor that fits a model."""
        return cls(vlm.tiler, vlm.template, vlm.llm.tokenizer, vlm.merger.token_count, max_length)

    def __call__(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Sample:
        """Messages with pictures -> ids, labels, pixels and plans."""
        tiles = [self.tiler(image) for message in messages for image in message.images]
        encoded = encode(
            self.template,
            self.tokenizer,
            messages,
            [self.token_count(item.plan) for item in tiles],
            add_generation_prompt=add_generation_prompt,
            max_length=self.max_length,
        )
        size = self.tiler.tile_size
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return Sample(
            ids=encoded.ids,
            labels=encoded.labels,
            pixels=torch.cat([empty, *(item.pixels for item in tiles)]),
            plans=tuple(item.plan for item in tiles),
        )


def collate(
    samples: Sequence[Sample], *, pad_id: int, side: Literal["left", "right"] = "right"
) -> Batch:
    """Pad to the longest sample: on the right for training, on the left for generation."""

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)

    return Batch(
        input_ids=pad([sample.ids for sample in samples], pad_id),
        labels=pad([sample.labels for sample in samples], IGNORED),
        attention_mask=pad([torch.ones_like(sample.ids) for sample in samples], 0),
        pixels=torch.cat([sample.pixels for sample in samples]),
        plans=tuple(plan for sample in samples for plan in sample.plans),
    )
