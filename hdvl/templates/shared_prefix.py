"""Encodes several conversations about the same images as one row of ids that holds the images once.

The row consists of the prefix that all conversations share, up to the last image, followed by the suffix of
each conversation. Every suffix attends to the prefix and to itself only (:mod:`hdvl.llms.segments`). The row
therefore has the logits, the loss and the gradients of the separate conversations, while the images are
computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hdvl.protocols import Conversation, Layout, SharedPrefix, Template, first_of
from hdvl.templates.encode import IGNORED, Encoded, encode


@dataclass(frozen=True)
class Row:
    """Ids and labels as in ``Encoded``. ``suffix_lengths`` is empty for a single conversation."""

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    suffix_lengths: tuple[int, ...] = ()


def images_of(conversation: Conversation) -> list[Any]:
    """The images of a conversation in order. Images shared by several conversations appear once.

    Raises:
        ValueError: the conversations of a shared prefix have different images.
    """
    shown = [image for message in first_of(conversation) for image in message.images]
    if isinstance(conversation, SharedPrefix):
        for number, other in enumerate(conversation.conversations):
            images = [image for message in other for image in message.images]
            same = len(images) == len(shown)
            if not same or any(a is not b and a != b for a, b in zip(images, shown, strict=True)):
                raise ValueError(
                    "independent conversations must show the same images in the same order, "
                    f"conversation {number} shows others than conversation 0"
                )
    return shown


def encode_row(
    template: Template,
    tokenizer: Any,
    conversation: Conversation,
    layouts: Sequence[Layout | int] = (),
    *,
    max_length: int | None = None,
) -> Row:
    """Encode one conversation, or several that share a prefix as the prefix followed by each suffix.

    Args:
        template: the template that writes conversations.
        tokenizer: a fast tokenizer of transformers that has the template's tokens.
        conversation: the turns, or several conversations with the same images.
        layouts: the layout of each image, as in :func:`encode`.
        max_length: the largest number of ids of the row.

    Raises:
        ValueError: as in :func:`encode`; or the conversations have different prefixes or no image, or
            supervised tokens in the prefix or directly after it.
    """
    if not isinstance(conversation, SharedPrefix):
        encoded = encode(template, tokenizer, conversation, layouts, max_length=max_length)
        return Row(encoded.ids, encoded.labels)
    row = _join(
        [encode(template, tokenizer, messages, layouts) for messages in conversation.conversations]
    )
    if max_length is not None and len(row.ids) > max_length:
        raise ValueError(
            f"independent conversations must not be longer together than max_length={max_length}, "
            f"got {len(row.ids)} ids of {len(row.suffix_lengths)} conversations; use fewer questions per "
            "image, fewer tiles or a larger max_length"
        )
    return row


def _join(several: Sequence[Encoded]) -> Row:
    first = several[0]
    if not first.slots:
        raise ValueError("independent conversations must begin with an image, they show none")
    end = first.slots[-1][1]
    for number, encoded in enumerate(several):
        if not torch.equal(encoded.ids[:end], first.ids[:end]):
            raise ValueError(
                "independent conversations must be the same up to their last image, conversation "
                f"{number} differs from conversation 0: {encoded.rendered.text[:500]!r}"
            )
        if (encoded.labels[: end + 1] != IGNORED).any():
            raise ValueError(
                "independent conversations must have text that is not supervised between their last image "
                "and the first answer, and no answer before the image, conversation "
                f"{number} has not: {encoded.rendered.text[:500]!r}"
            )
    return Row(
        ids=torch.cat([first.ids[:end], *(encoded.ids[end:] for encoded in several)]),
        labels=torch.cat([first.labels[:end], *(encoded.labels[end:] for encoded in several)]),
        suffix_lengths=tuple(len(encoded.ids) - end for encoded in several),
    )
