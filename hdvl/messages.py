"""Converts conversations of callers: messages, pairs of question and answer, or OpenAI's dictionaries."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hdvl.protocols import Message
from hdvl.templates.base import IMAGE

ROLES = ("system", "user", "assistant")
_TAG = re.compile(r"<(?P<end>/?)img>")
Turn = Message | Mapping[str, Any]
"""A message, or ``{"role": "user", "content": "What is it?"}``."""


def as_message(turn: Mapping[str, Any], number: int) -> Message:
    """Turn ``number`` of a history in OpenAI's format, ``{"role": "user", "content": "What is it?"}``.

    ``content`` is text, or a list of parts: ``{"type": "text", "text": ...}``, ``{"type": "image_url",
    "image_url": {"url": ...}}`` or ``{"type": "image", "image": ...}``.

    Raises:
        ValueError: the role, the type of a part, or the content of a part is invalid.
    """
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} of history must be a message, got {str(turn)[:200]!r}")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise ValueError(f"turn {number} of history: role must be one of {ROLES}, got {role!r}")
    if isinstance(content, str):
        return Message(role, content)
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise ValueError(
            f"turn {number} of history: content must be text or a list of parts, got {content!r}"
        )
    try:
        parts, images = read_parts(content)
    except ValueError as error:
        raise ValueError(f"turn {number} of history: {error}") from None
    if images and role != "user":
        raise ValueError(f"turn {number} of history: only the user shows images, not the {role}")
    text, leading = place_parts(parts)
    return Message(role, text, tuple(images), leading=leading)


def place_parts(parts: Sequence[str | None]) -> tuple[str, int]:
    """Return the text and ``Message.leading`` of a message that is given as parts.

    Images before the first text are left to the template, which puts its separator after each, as it does
    for images that are given beside a text. Other images are at their position in the text, with nothing
    around them. Chat templates that ``hdvl export`` writes follow the same rule.

    Args:
        parts: the texts, and ``None`` for each image.

    >>> place_parts([None, "What is it?"])
    ('What is it?', 0)
    >>> place_parts([None, "Is it in ", None, "?"])
    ('Is it in <image>?', 1)
    """
    leading = next((number for number, part in enumerate(parts) if part is not None), len(parts))
    text = "".join(IMAGE if part is None else part for part in parts[leading:])
    return text, leading if IMAGE in text else 0


def read_parts(parts: Sequence[Any], *, beside: bool = False) -> tuple[list[str | None], list[Any]]:
    """Return the texts of a message's parts with ``None`` for each image, and the images.

    Args:
        parts: ``{"type": "text", "text": ...}``, ``{"type": "image", "image": ...}`` or ``{"type":
            "image_url", "image_url": {"url": ...}}``.
        beside: whether a part of type image may have no image, for images that are listed elsewhere.

    Raises:
        ValueError: a part has another type, or lacks the content of its type.
    """
    found, images = list[str | None](), list[Any]()
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        image = _image(part, kind) if kind in ("image", "image_url") else None
        if kind == "text" and isinstance(part.get("text"), str):
            found.append(part["text"])
        elif is_given(image) or (beside and kind == "image"):
            found.append(None)
            images += [image] if is_given(image) else []
        else:
            raise ValueError(
                "a part must be of type text with its text, or of type image or image_url with its "
                f"image, got {part!r:.200}"
            )
    return found, images


def split_inline(text: str) -> tuple[str, list[str]]:
    """Return ``text`` with ``<image>`` for each ``<img>path</img>``, and the paths in order.

    >>> split_inline("<img>a.png</img>What is it?")
    ('<image>What is it?', ['a.png'])

    Raises:
        ValueError: a tag is not closed or not opened.
    """
    pieces, paths, done, opened = list[str](), list[str](), 0, -1
    for tag in _TAG.finditer(text):
        if (opened >= 0) != bool(tag["end"]):
            break
        if opened < 0:
            pieces.append(text[done : tag.start()])
            opened = tag.end()
        else:
            paths.append(text[opened : tag.start()])
            done, opened = tag.end(), -1
    rest = text[done:]
    if opened >= 0 or _TAG.search(rest):
        raise ValueError(
            f"every <img> must be closed by </img> before the next, got {rest[:200]!r}; write the "
            "tag in another way if it is no image"
        )
    return IMAGE.join([*pieces, rest]), paths


def is_given(value: Any) -> bool:
    """Return whether a field has a value, neither null nor NaN, which pandas writes for missing values."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _image(part: Mapping[str, Any], kind: str) -> Any:
    held = part.get(kind)
    return held.get("url") if kind == "image_url" and isinstance(held, Mapping) else held


def as_turn(message: Message, url_of: Callable[[Any], str]) -> dict[str, Any]:
    """A message in OpenAI's format, the inverse of :func:`as_message`.

    A message that begins with ``<image>`` gets an empty text as its first part, since the template would
    put its separator after an image that is the first part.

    Args:
        message: the message.
        url_of: makes the URL of an image.

    Raises:
        ValueError: the text does not have as many ``<image>`` as there are images.
    """
    if not message.images:
        return {"role": message.role, "content": message.text}
    first, *pieces = message.text.split(IMAGE)
    leading = message.leading if pieces else len(message.images)
    if leading + len(pieces) != len(message.images):
        raise ValueError(
            f"a message must have as many {IMAGE} as images, got {leading + len(pieces)} and "
            f"{len(message.images)}"
        )
    images = [
        {"type": "image_url", "image_url": {"url": url_of(image)}} for image in message.images
    ]
    parts: list[dict[str, Any]] = images[:leading]
    if first or not leading:
        parts.append({"type": "text", "text": first})
    for image, piece in zip(images[leading:], pieces, strict=True):
        parts += [image, {"type": "text", "text": piece}] if piece else [image]
    return {"role": message.role, "content": parts}


def as_messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Return the messages of a conversation.

    Raises:
        ValueError: a turn is neither a message nor a mapping with role and content.
    """
    if not isinstance(turns, list | tuple):
        raise ValueError(f"a conversation must be a list of messages, got {str(turns)[:200]!r}")
    return tuple(
        turn if isinstance(turn, Message) else as_message(turn, number)
        for number, turn in enumerate(turns, 1)
    )


def is_pair(turn: Any) -> bool:
    """Return whether ``turn`` is a pair of a question (text or a list) and the text of its answer."""
    if not isinstance(turn, tuple | list) or len(turn) != 2:
        return False
    query, answer = turn
    listed = isinstance(query, list | tuple) and all(isinstance(item, Mapping) for item in query)
    return (isinstance(query, str) or listed) and isinstance(answer, str)


def as_turns(history: Any) -> list[Any]:
    """The turns of ``history``, each of which is a message, a mapping or a pair.

    Raises:
        ValueError: it is no list of these.
    """
    if history is None:
        return []
    if isinstance(history, list | tuple):
        turns = list(history)
        wrong = [t for t in turns if not (isinstance(t, Message | Mapping) or is_pair(t))]
        if not wrong:
            return turns
        history = wrong[0]
    raise ValueError(
        "history must be a list of messages (answer.history), of pairs of a question and its answer "
        '(both text), or of turns such as {"role": "user", "content": "What is it?"}, got '
        f"{str(history)[:200]!r}"
    )
