"""Conversations, rendered text and decoded boxes.

This module does not import torch. Its names are available in ``hdvl.protocols`` too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hdvl.geometry import Box


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        text: the text of the turn. ``<image>`` marks the position of an image; images without a mark
            come before the text, where the template puts its separator after each.
        images: the images of the turn, in order.
        numbered: whether the template may number the images; false if the text numbers them itself.
        leading: the number of images that come before a text with marks, which stand for the other images.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Any, ...] = ()
    numbered: bool = True
    leading: int = 0


@dataclass(frozen=True)
class SharedPrefix:
    """Independent conversations that begin with the same images.

    The images are encoded once and the shared prefix is read once, but no conversation attends to
    another; see :mod:`hdvl.templates.shared_prefix`.
    """

    conversations: tuple[list[Message], ...]

    def __post_init__(self) -> None:
        if not self.conversations:
            raise ValueError("conversations must be at least one, got none")


Conversation = Sequence[Message] | SharedPrefix


def first_of(conversation: Conversation) -> Sequence[Message]:
    """Return the conversation, or the first of several: the one that holds the images of all."""
    return conversation.conversations[0] if isinstance(conversation, SharedPrefix) else conversation


Segment = int | tuple[int, ...]
"""The length of a document in a packed row; or the length of a prefix that several documents share,
followed by the length of the rest of each document."""


def lengths_of(segments: Sequence[Segment]) -> list[int]:
    """Return the lengths of all pieces of a packed row, in order.

    >>> lengths_of([7, (5, 2, 3)])
    [7, 5, 2, 3]
    """
    pieces = ((segment,) if isinstance(segment, int) else segment for segment in segments)
    return [length for piece in pieces for length in piece]


@dataclass(frozen=True)
class Rendered:
    """A conversation as one string.

    Attributes:
        text: the string.
        spans: (start, end) characters of the supervised parts.
        literal: (start, end) characters of the users' text, outside of images and tags. These spans are
            tokenised separately, and control tokens in them are tokenised as ordinary characters.
        opening: number of leading characters that are tokenised separately, so that the characters after
            them are tokenised like the beginning of a text.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    literal: tuple[tuple[int, int], ...] = ()
    opening: int = 0


@dataclass(frozen=True)
class GroundedBox:
    """A labelled box of an answer.

    Attributes:
        label: the text that the box belongs to.
        box: the box in pixels of the image.
        image: index of the image, from 0.
        points: the corners (x, y) of a quadrilateral that ``box`` encloses; empty for a plain box.
    """

    label: str
    box: Box
    image: int = 0
    points: tuple[tuple[float, float], ...] = ()


class Decoded(NamedTuple):
    """The boxes parsed from a text, and the pieces of text that look like boxes but are malformed."""

    boxes: list[GroundedBox]
    errors: list[str]
