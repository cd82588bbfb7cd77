"""From the messages of a request to a conversation of hdvl."""

from typing import Any, Literal

from PIL import Image

from hdvl.messages import place_parts
from hdvl.protocols import Message
from hdvl.serving.errors import bad_request
from hdvl.serving.media import is_low, read_image_part
from hdvl.serving.settings import Settings
from hdvl.templates import IMAGE

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def read_messages(turns: list[dict[str, Any]], settings: Settings) -> tuple[Message, ...]:
    """The conversation of a request, with its images.

    Raises:
        APIError: a message is of another form, or holds what is not supported or not allowed.
    """
    found, images = list[Message](), 0
    for number, turn in enumerate(turns):
        message = _message(turn, f"messages.{number}", settings, settings.max_images - images)
        images += len(message.images)
        found.append(message)
    return tuple(found)


def low_detail(turns: list[dict[str, Any]]) -> bool:
    """Whether all images of a request are sent with ``detail: "low"``."""
    contents = [turn.get("content") for turn in turns]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    images = [part for part in parts if isinstance(part, dict) and part.get("type") == "image_url"]
    return bool(images) and all(is_low(part) for part in images)


def check_text(turns: list[dict[str, Any]], settings: Settings) -> None:
    """Check the length of the text of a request before it is tokenised.

    Raises:
        APIError: it is too long.
    """
    count = 0
    for turn in turns:
        content = turn.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        count += sum(len(text) for text in texts if isinstance(text, str))
    check_characters(count, settings)


def check_characters(count: int, settings: Settings) -> None:
    """Check a number of characters against the bound of the server.

    Raises:
        APIError: there are too many.
    """
    if count > settings.max_characters:
        raise bad_request(
            f"the text of a request must have at most {settings.max_characters} characters, got {count}; "
            "shorten it",
            "messages",
            "context_length_exceeded",
        )


def _message(turn: dict[str, Any], place: str, settings: Settings, room: int) -> Message:
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(
            f"{place}.role must be one of {', '.join(_ROLES)}, got {role!r:.60}", place
        )
    for name in ("tool_calls", "function_call"):
        if turn.get(name):
            raise bad_request(
                f"{place}.{name}: tools are not supported", place, "unsupported_parameter"
            )
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, str):
        return Message(_ROLES[role], _text(content, place))
    if not isinstance(content, list):
        kind = type(content).__name__
        raise bad_request(f"{place}.content must be text or a list of parts, got {kind}", place)
    parts, images = list[str | None](), list[Image.Image]()
    for number, part in enumerate(content):
        where = f"{place}.content.{number}"
        part_type: Any = part.get("type") if isinstance(part, dict) else None
        if part_type == "text" and isinstance(part.get("text"), str):
            parts.append(_text(part["text"], where))
        elif part_type == "image_url" and role == "user":
            if len(images) >= room:
                raise bad_request(
                    f"a request must hold at most {settings.max_images} images", place
                )
            images.append(read_image_part(part, settings))
            parts.append(None)
        elif part_type == "image_url":
            raise bad_request(f"{where}: only the user may send images, not the {role}", place)
        else:
            raise bad_request(
                f"{where} must be of type text with its text, or of type image_url, got {part_type!r:.60}",
                place,
            )
    text, leading = place_parts(parts)
    return Message(_ROLES[role], text, tuple(images), leading=leading)


def _text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad_request(
            f"{place} must be valid Unicode, it holds half a character", place
        ) from None
    if IMAGE in text:
        raise bad_request(
            f"{place} must not hold {IMAGE}, which marks the position of an image; send images as parts "
            "of type image_url",
            place,
        )
    return text
