"""A row of a file -> a conversation: the one conversion that all readers share."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from hdvl.messages import is_given, read_parts, split_inline
from hdvl.protocols import Message
from hdvl.templates.base import IMAGE

Fault = Literal["row", "placeholder", "image", "box", "conversation", "unsupervised", "long"]
"""What may be wrong with a row on its own (that it stands there twice is known to a whole file)."""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
IMAGES = ("image", "images")
Turn = tuple[str, str]


UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What reading a row of another shape may raise, in a library or here. Only what reads rows catches these:
anywhere else they are mistakes of the program."""

NOT_LEARNED = (
    ValueError,
    RecursionError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""What a row may be left out for. Other errors are the machine's, such as a disk that is gone, and end
the run."""


class RowError(ValueError):
    """A row that is no conversation. ``fault`` says of which kind the fault is."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def to_messages(
    row: Any, *, image: Callable[[Any], Any] = lambda value: value, inline: bool = False
) -> list[Message]:
    """The turns of ``row`` with their images.

    The turns stand in one of three fields (as a list, or as JSON text of one)::

        conversations   [{from, value}]                     LLaVA, InternVL, Qwen-VL
        messages        [{role, content}]                   text, or parts: text, image, image_url
        texts           [{user, assistant}]                 The Cauldron, FineVision

    and the images in ``image`` or ``images``, one or a list, or in the parts. An image belongs to
    the turn that names it with ``<image>``; without any such mark all belong to the first user turn.

    Args:
        row: the row.
        image: from what the row says of an image to what :func:`hdvl.images.read_image` takes.
        inline: images stand in the text, as ``<img>path</img>``, and the text numbers them itself.

    Raises:
        RowError: the row is of another shape, or has other images than marks.
    """
    if not isinstance(row, Mapping):
        raise RowError("row", f"a row must be a mapping of fields, got {type(row).__name__}")
    if is_given(row.get("video")) and row["video"]:
        raise RowError("row", f"a row must be text and images, got video={row['video']!r:.200}")
    images = _images(row)
    turns = _turns(row, images)
    if inline:
        turns = _take_inline(turns, images)
    marks = sum(text.count(IMAGE) for _, text in turns)
    if marks not in (0, len(images)):
        raise RowError("placeholder", f"{len(images)} images but {marks} {IMAGE} marks")
    first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
    if images and not marks and first is None:
        raise RowError("placeholder", f"{len(images)} images but no user turn to show them in")
    left = [image(value) for value in images]
    messages = list[Message]()
    for number, (role, text) in enumerate(turns):
        count = text.count(IMAGE) if marks else len(left) * (number == first)
        own, left = tuple(left[:count]), left[count:]
        name = cast(Literal["system", "user", "assistant"], role)
        messages.append(Message(name, text, own, numbered=not inline))
    return messages


def printable(text: str) -> str:
    """``text`` with what no terminal or file can hold, such as half a surrogate pair, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _images(row: Mapping[str, Any]) -> list[Any]:
    listed: Any = next((row[name] for name in IMAGES if is_given(row.get(name))), [])
    if isinstance(listed, list | tuple):
        return [value for value in listed if is_given(value)]
    return [] if isinstance(listed, str) and not listed else [listed]


def _turns(row: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    """(role, text) of each turn; images that stand in parts are added to ``images``."""
    shapes = {"conversations": _said, "messages": _message, "texts": _pair}
    name = next((name for name in shapes if is_given(row.get(name))), None)
    if name is None:
        fields = sorted(map(str, row))
        raise RowError("row", f"a row must have one of {', '.join(shapes)}, got {fields!r:.200}")
    listed = _parsed(row[name])
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise RowError("row", f"{name} must be a list of turns, got {str(listed)[:200]!r}")
    turns = list[Turn]()
    try:
        for turn in listed:
            turns += shapes[name](turn, images)
    except (KeyError, TypeError, AttributeError) as error:
        raise RowError(
            "row", f"{name} has a turn of another shape, {error!r:.200}: {turn!r:.200}"
        ) from error
    return turns


def _parsed(value: Any) -> Any:
    """Formats without nested fields hold them as JSON."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowError("row", f"turns must be a list or JSON of one: {error}") from error


def _role(name: Any) -> str:
    if name not in ROLES:
        raise RowError("row", f"from must be one of {sorted(ROLES)}, got {name!r:.200}")
    return ROLES[name]


def _said(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    return [(_role(turn["from"]), _text(turn["value"]))]


def _pair(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    return [("user", _text(turn["user"])), ("assistant", _text(turn["assistant"]))]


def _message(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    content = turn["content"]
    if isinstance(content, str):
        return [(_role(turn["role"]), _text(content))]
    try:
        text, shown = read_parts(
            content, beside=True
        )  # of the row's images the next, if it has none
    except ValueError as error:
        raise RowError("row", str(error)) from error
    images += shown
    return [(_role(turn["role"]), _text(text))]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RowError("row", f"the text of a turn must be a string, got {value!r:.200}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            "row",
            f"the text of a turn must be Unicode, character {error.start} is half of a surrogate pair: "
            f"{value[max(0, error.start - 20) : error.end + 20]!r}",
        ) from error
    return value


def _take_inline(turns: list[Turn], images: list[Any]) -> list[Turn]:
    """The turns with ``<image>`` for each ``<img>path</img>``, whose paths go to ``images``."""
    texts = [text for _, text in turns]
    if images or any(IMAGE in text for text in texts):
        raise RowError(
            "placeholder", f"images must stand in the text as <img>path</img>, not as {IMAGE} too"
        )
    taken = list[Turn]()
    for role, text in turns:
        try:
            words, paths = split_inline(text)
        except ValueError as error:
            raise RowError("placeholder", str(error)) from error
        taken.append((role, words))
        images += [path.strip() for path in paths]
    return taken
