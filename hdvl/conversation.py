"""Conversations, and what is written of them: the values of the protocols that are about text.

Needs no torch. Everything here is also a name of ``hdvl.protocols``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hdvl.geometry import Box


@dataclass(frozen=True)
class Message:
    """One turn. Images stand where ``<image>`` stands in ``text``, or in front if it does not.

    ``numbered`` lets the template number the images; not so where the text does it as it likes.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Any, ...] = ()
    numbered: bool = True


@dataclass(frozen=True)
class SharedPrefix:
    """Conversations that begin with the same images, of which none sees another.

    The images are encoded and read once: see :mod:`hdvl.templates.shared_prefix`.
    """

    conversations: tuple[list[Message], ...]

    def __post_init__(self) -> None:
        if not self.conversations:
            raise ValueError("conversations must be at least one, got none")


Conversation = Sequence[Message] | SharedPrefix


def first_of(conversation: Conversation) -> Sequence[Message]:
    """The conversation itself, or the first of several: it shows the images of all."""
    return conversation.conversations[0] if isinstance(conversation, SharedPrefix) else conversation


Segment = int | tuple[int, ...]
"""The length of a document in a packed row. Or several lengths: of what some documents begin with, and of
the rest of each of them."""


def lengths_of(segments: Sequence[Segment]) -> list[int]:
    """The lengths of all pieces of a packed row, in order.

    >>> lengths_of([7, (5, 2, 3)])
    [7, 5, 2, 3]
    """
    pieces = ((segment,) if isinstance(segment, int) else segment for segment in segments)
    return [length for piece in pieces for length in piece]


@dataclass(frozen=True)
class Rendered:
    """A conversation as one string, and the character spans that the model is trained to say.

    ``literal`` are the spans of text, outside of images and tags, that are tokenised on their own and
    in which a control token is but letters. The first ``opening`` characters are tokenised on their own too,
    so that what follows them is tokenised as the beginning of a text.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    literal: tuple[tuple[int, int], ...] = ()
    opening: int = 0


@dataclass(frozen=True)
class GroundedBox:
    """A labelled box found in an answer, in pixels of image number ``image``.

    ``points`` are the corners (x, y) of a quadrilateral, which ``box`` encloses; empty for a box.
    """

    label: str
    box: Box
    image: int = 0
    points: tuple[tuple[float, float], ...] = ()


class Decoded(NamedTuple):
    """The boxes found in a text, and the pieces that begin like boxes but are none."""

    boxes: list[GroundedBox]
    errors: list[str]
