"""Converts a row of a file to a conversation, for all readers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from hdvl.messages import is_given, place_parts, read_parts, split_inline
from hdvl.protocols import Message
from hdvl.templates.base import IMAGE

Fault = Literal["row", "placeholder", "image", "box", "conversation", "unsupervised", "long"]
"""The kinds of faults of a single row. (Duplicates are found only by comparing all rows.)"""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
IMAGES = ("image", "images")


class Turn(NamedTuple):
    """A turn of a row.

    Attributes:
        role: who speaks.
        text: the text, with ``<image>`` at the positions of images.
        images: the number of images that belong to the turn; 0 for all turns if the row does not say.
        leading: as of :class:`hdvl.protocols.Message`.
    """

    role: str
    text: str
    images: int
    leading: int = 0

    @classmethod
    def of(cls, role: str, text: str) -> "Turn":
        """A turn whose images are marked in its text."""
        return cls(role, text, text.count(IMAGE))


UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""Errors that reading a row of an unexpected structure may raise, in a library or here.

Only code that reads rows catches them: elsewhere they are errors of the program.
"""

SKIPPABLE = (
    ValueError,
    RecursionError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""Errors for which a row is left out. Other errors, such as those of a failing disk, end the run."""


class RowError(ValueError):
    """A row is not a valid conversation. ``fault`` is the kind of the fault."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def to_messages(
    row: Any, *, image: Callable[[Any], Any] = lambda value: value, inline: bool = False
) -> list[Message]:
    """The turns of ``row`` with their images.

    The turns are in one of three fields (as a list, or as the JSON text of a list)::

        conversations   [{from, value}]                     LLaVA, InternVL, Qwen-VL
        messages        [{role, content}]                   text, or parts: text, image, image_url
        texts           [{user, assistant}]                 The Cauldron, FineVision

    The images are in ``image`` or ``images``, as one value or a list, or in the parts. Each ``<image>`` in
    a turn takes the next image; without any such mark, all images belong to the first user turn.

    Args:
        row: the row.
        image: converts an image of the row to an argument of :func:`hdvl.images.read_image`.
        inline: whether images are in the text as ``<img>path</img>``, which also contains the image numbers.

    Raises:
        RowError: the row has another structure, or the numbers of images and marks differ.
    """
    if not isinstance(row, Mapping):
        raise RowError("row", f"a row must be a mapping of fields, got {type(row).__name__}")
    if is_given(row.get("video")) and row["video"]:
        raise RowError("row", f"a row must be text and images, got video={row['video']!r:.200}")
    images = _images(row)
    turns = _turns(row, images)
    if inline:
        turns = _extract_inline_images(turns, images)
    marks = sum(turn.images for turn in turns)
    if marks not in (0, len(images)):
        raise RowError("placeholder", f"{len(images)} images but {marks} {IMAGE} marks")
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if images and not marks and first is None:
        raise RowError("placeholder", f"{len(images)} images but no user turn to show them in")
    left = [image(value) for value in images]
    messages = list[Message]()
    for number, turn in enumerate(turns):
        count = turn.images if marks else len(left) * (number == first)
        own, left = tuple(left[:count]), left[count:]
        name = cast(Literal["system", "user", "assistant"], turn.role)
        messages.append(Message(name, turn.text, own, not inline, turn.leading))
    return messages


def printable(text: str) -> str:
    """``text`` with characters that cannot be encoded, such as half a surrogate pair, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _images(row: Mapping[str, Any]) -> list[Any]:
    listed: Any = next((row[name] for name in IMAGES if is_given(row.get(name))), [])
    if isinstance(listed, list | tuple):
        return [value for value in listed if is_given(value)]
    return [] if isinstance(listed, str) and not listed else [listed]


def _turns(row: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    """(role, text) of each turn; images in parts are appended to ``images``."""
    shapes = {"conversations": _from_value, "messages": _message, "texts": _pair}
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
            "row", f"{name} has a turn of another structure, {error!r:.200}: {turn!r:.200}"
        ) from error
    return turns


def _parsed(value: Any) -> Any:
    """``value`` parsed from JSON if it is text, as in formats without nested fields."""
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


def _from_value(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    return [Turn.of(_role(turn["from"]), _text(turn["value"]))]


def _pair(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    pair = _text(turn["user"]), _text(turn["assistant"])
    return [Turn.of("user", pair[0]), Turn.of("assistant", pair[1])]


def _message(turn: Mapping[str, Any], images: list[Any]) -> list[Turn]:
    content = turn["content"]
    if isinstance(content, str):
        return [Turn.of(_role(turn["role"]), _text(content))]
    try:
        # An image part without a source takes the next image of the row.
        parts, shown = read_parts(content, beside=True)
    except ValueError as error:
        raise RowError("row", str(error)) from error
    images += shown
    text, leading = place_parts(parts)
    marked = sum(part.count(IMAGE) for part in parts if part is not None)
    return [Turn(_role(turn["role"]), _text(text), parts.count(None) + marked, leading)]


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


def _extract_inline_images(turns: list[Turn], images: list[Any]) -> list[Turn]:
    """Replace each ``<img>path</img>`` by ``<image>``, and append the paths to ``images``."""
    if images or any(turn.images for turn in turns):
        raise RowError(
            "placeholder", f"images must be in the text as <img>path</img> only, not as {IMAGE} too"
        )
    taken = list[Turn]()
    for turn in turns:
        try:
            words, paths = split_inline(turn.text)
        except ValueError as error:
            raise RowError("placeholder", str(error)) from error
        taken.append(Turn.of(turn.role, words))
        images += [path.strip() for path in paths]
    return taken
