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
        text, images = read_parts(content)
    except ValueError as error:
        raise ValueError(f"turn {number} of history: {error}") from None
    if images and role != "user":
        raise ValueError(f"turn {number} of history: only the user shows images, not the {role}")
    return Message(role, text, tuple(images))


def read_parts(parts: Sequence[Any], *, beside: bool = False) -> tuple[str, list[Any]]:
    """Return the text of a message's parts with ``<image>`` for each image, and the images.

    Args:
        parts: ``{"type": "text", "text": ...}``, ``{"type": "image", "image": ...}`` or ``{"type":
            "image_url", "image_url": {"url": ...}}``.
        beside: whether a part of type image may have no image, for images that are listed elsewhere.

    Raises:
        ValueError: a part has another type, or lacks the content of its type.
    """
    text, images = "", list[Any]()
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        image = _image(part, kind) if kind in ("image", "image_url") else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif is_given(image) or (beside and kind == "image"):
            text += IMAGE
            images += [image] if is_given(image) else []
        else:
            raise ValueError(
                "a part must be of type text with its text, or of type image or image_url with its "
                f"image, got {part!r:.200}"
            )
    return text, images


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

    Args:
        message: images that its text gives no place stand in front of it.
        url_of: makes the URL of an image.
    """
    if not message.images:
        return {"role": message.role, "content": message.text}
    pieces = message.text.split(IMAGE)
    if len(pieces) == 1:
        pieces = [""] * len(message.images) + pieces
    if len(pieces) != len(message.images) + 1:
        raise ValueError(
            f"a message must have as many {IMAGE} as images, got {len(pieces) - 1} and "
            f"{len(message.images)}"
        )
    parts = list[dict[str, Any]]()
    for number, piece in enumerate(pieces):
        if number:
            url = url_of(message.images[number - 1])
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if piece:
            parts.append({"type": "text", "text": piece})
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
