"""Conversations as callers write them: messages, pairs of question and answer, or OpenAI's dictionaries."""

from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.images import ImageSource
from hdvl.protocols import Message
from hdvl.templates import IMAGE

ROLES = ("system", "user", "assistant")
Turn = Message | Mapping[str, Any]
"""A message, or ``{"role": "user", "content": "What is it?"}``."""


def as_message(turn: Mapping[str, Any], number: int) -> Message:
    """Turn ``number`` of a history in OpenAI's format, ``{"role": "user", "content": "What is it?"}``.

    ``content`` is text, or a list of parts: ``{"type": "text", "text": ...}``, ``{"type": "image_url",
    "image_url": {"url": ...}}`` or ``{"type": "image", "image": ...}``.

    Raises:
        ValueError: the role, a part, or what it holds is another.
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
    text, images = "", list[ImageSource]()
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind in ("image", "image_url") and (image := _image(part, kind)) is not None:
            text += IMAGE
            images.append(image)
        else:
            raise ValueError(
                f"turn {number} of history: a part must be of type text with its text, or of type "
                f"image or image_url with its image, got {part!r}"
            )
    if images and role != "user":
        raise ValueError(f"turn {number} of history: only the user shows images, not the {role}")
    return Message(role, text, tuple(images))


def _image(part: Mapping[str, Any], kind: str) -> Any:
    held = part.get(kind)
    return held.get("url") if kind == "image_url" and isinstance(held, Mapping) else held


def as_messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The messages of a conversation.

    Raises:
        ValueError: a turn is neither a message nor says its role and content.
    """
    if not isinstance(turns, list | tuple):
        raise ValueError(f"a conversation must be a list of messages, got {str(turns)[:200]!r}")
    return tuple(
        turn if isinstance(turn, Message) else as_message(turn, number)
        for number, turn in enumerate(turns, 1)
    )


def is_pair(turn: Any) -> bool:
    """Whether ``turn`` is a question, as text or as a list, and the text of its answer."""
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
