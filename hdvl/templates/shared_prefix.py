"""Encodes several conversations about the same images as one row of ids that holds the images once.

The row begins with what all of them begin with, up to the last image, and then holds the rest of each.
A rest is read as if it alone followed the beginning (:mod:`hdvl.llms.segments`), so that the row has the
logits, the loss and the gradients of the conversations by themselves, for the cost of one set of images.
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
    """Ids and labels as in ``Encoded``. ``suffix_lengths``: lengths of the rests; empty for one text."""

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    suffix_lengths: tuple[int, ...] = ()


def images_of(conversation: Conversation) -> list[Any]:
    """The images of a conversation in order. Images shared by several conversations appear once.

    Raises:
        ValueError: independent conversations show other images.
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
        template: how conversations are written.
        tokenizer: a fast tokenizer of transformers that knows the template's tokens.
        conversation: the turns, or several conversations with the same images.
        layouts: what stands for each image, as :func:`encode` takes it.
        max_length: most ids of the row.

    Raises:
        ValueError: see :func:`encode`; or independent conversations do not begin alike, have no
            image, or have to say something within the beginning or right after it.
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
            f"got {len(row.ids)} ids of {len(row.suffix_lengths)} conversations; ask fewer questions a "
            "image, use fewer tiles or a larger max_length"
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
                "independent conversations must have something to read between their last image "
                "and the first word they are to say, and nothing to say before it, conversation "
                f"{number} has not: {encoded.rendered.text[:500]!r}"
            )
    return Row(
        ids=torch.cat([first.ids[:end], *(encoded.ids[end:] for encoded in several)]),
        labels=torch.cat([first.labels[:end], *(encoded.labels[end:] for encoded in several)]),
        suffix_lengths=tuple(len(encoded.ids) - end for encoded in several),
    )
