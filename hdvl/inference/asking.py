"""Formats of questions: text, lists of images and texts, text that contains images, and histories."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hdvl.images import ImageSource
from hdvl.inference.inline import take_images
from hdvl.messages import Turn, as_message, as_turns, place_parts
from hdvl.protocols import BoxCodec, Message, TilePlan
from hdvl.templates import Norm1000

Images = ImageSource | Sequence[ImageSource] | None
Prompt = str | Sequence[Mapping[str, Any]]
"""Words, or a list such as ``[{"image": "a.png"}, {"text": "Where is it?"}]``."""

History = Sequence[Turn | tuple[Prompt, str]]
"""``answer.history``, pairs of a question and its answer, or turns as OpenAI's API has them."""

_KEYS = ("image", "text", "ref", "box")
_OPEN_END = re.compile(r"(?:<ref>[^<]*</ref>)?<(?:box|quad)>$")


def build_messages(
    prompt: Prompt,
    images: Images = None,
    history: History | None = None,
    system: str | None = None,
    *,
    boxes: BoxCodec,
    image_folder: str | Path | None = None,
) -> tuple[Message, ...]:
    """Return the conversation of a question about ``images`` after ``history``.

    Raises:
        ValueError: the parts do not fit together, or a tag in the prompt is not closed.
    """
    before = as_turns(history)
    messages = list[Message]()
    for number, turn in enumerate(before, 1):
        if isinstance(turn, Message):
            messages.append(turn)
        elif isinstance(turn, Mapping):
            messages.append(_with_files(as_message(turn, number), image_folder))
        else:
            query, answer = turn
            messages += [_user(query, None, boxes, image_folder), Message("assistant", answer)]
    if system is not None:
        if any(isinstance(turn, Message) or _is_system(turn) for turn in before):
            raise ValueError("system must be given with the first turn, there is a history already")
        messages.insert(0, Message("system", system))
    asked = _user(prompt, images, boxes, image_folder)
    check_tags(asked.text, boxes.tokens)
    return (*messages, asked)


def _is_system(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn["role"] == "system"


def _user(
    prompt: Prompt, images: Images, boxes: BoxCodec, image_folder: str | Path | None
) -> Message:
    given = _as_tuple(images)
    message = Message("user", prompt, given) if isinstance(prompt, str) else _listed(prompt, boxes)
    if not isinstance(prompt, str) and given:
        raise ValueError("images must be given in the prompt's list or as images=, not in both")
    return _with_files(message, image_folder)


def _with_files(message: Message, image_folder: str | Path | None) -> Message:
    """The message with the files that its text names as ``<img>path</img>``."""
    if message.role != "user":
        return message
    if image_folder is None or ("<img>" not in message.text and "</img>" not in message.text):
        return message
    text, files = take_images(message.text, image_folder)
    if message.images:
        raise ValueError(
            "images must be given in the text as <img>path</img> or beside it, not both"
        )
    return replace(message, text=text, images=files, numbered=False)


def _as_tuple(images: Images) -> tuple[ImageSource, ...]:
    if images is None:
        return ()
    return tuple(images) if isinstance(images, list | tuple) else (images,)  # type: ignore[return-value]


def _listed(items: Sequence[Mapping[str, Any]], boxes: BoxCodec) -> Message:
    """Qwen-VL's list format: images (those after a text on a line of their own), texts, and labelled boxes.

    ``{"ref": "cat", "box": (x1, y1, x2, y2)}`` holds one box or a list of boxes, in thousandths of the
    image, with or without a label.
    """
    parts, images = list[str | None](), list[Any]()
    for number, item in enumerate(items, 1):
        kinds = set(item)
        if kinds == {"image"}:
            # Qwen-VL ends the line after every image. Leading ones are followed by the template's separator.
            behind = any(part is not None for part in parts)
            images.append(item["image"])
            parts += [None, "\n"] if behind else [None]
        elif kinds == {"text"}:
            parts.append(item["text"])
        elif kinds and kinds <= {"ref", "box"}:
            label = f"<ref>{item['ref']}</ref>" if "ref" in item else ""
            tags = [_tag(box, boxes, number) for box in _several(item.get("box", ()))]
            parts.append("".join((label, *tags)))
        else:
            raise ValueError(
                f"item {number} of a prompt must have image, text, or ref and box, got "
                f"{sorted(map(str, kinds))}"
            )
    text, leading = place_parts(parts)
    return Message("user", text, tuple(images), leading=leading)


def _several(box: Sequence[Any]) -> Sequence[Sequence[float]]:
    return [box] if box and not isinstance(box[0], list | tuple) else box


def _tag(box: Sequence[float], boxes: BoxCodec, number: int) -> str:
    if not isinstance(boxes, Norm1000):
        raise ValueError(
            f"item {number} of a prompt has a box in thousandths, this template writes boxes as "
            f"{type(boxes).__name__}; write it into the text"
        )
    if len(box) != 4:
        raise ValueError(f"item {number} of a prompt: box must be 4 numbers, got {list(box)}")
    return boxes.write([int(value) for value in box])


def check_tags(text: str, tags: Sequence[str]) -> None:
    """Check that each of ``tags`` is closed before it is opened again, and opened before it is closed.

    A ``<box>`` or ``<quad>`` at the end may be open, because the answer continues from there.
    """
    for closing in (tag for tag in tags if tag.startswith("</")):
        opening = "<" + closing[2:]
        found = re.findall(f"{re.escape(opening)}|{re.escape(closing)}", text)
        if opening in ("<box>", "<quad>") and text.endswith(opening):
            found.pop()
        if found != [opening, closing] * (len(found) // 2):
            raise ValueError(
                f"every {opening} in a prompt must be closed by {closing}, got {text[:200]!r}; spell "
                "the tag otherwise where none is meant"
            )


def open_end(text: str) -> str:
    """Return the open tag at the end of a prompt, which the answer continues: ``<ref>cat</ref><box>``."""
    match = _OPEN_END.search(text)
    return match[0] if match else ""


def check_tiles(plans: Sequence[TilePlan], counts: Sequence[int] | None) -> None:
    """Compare InternVL's ``num_patches_list`` with the tiles of each image of the conversation.

    Raises:
        ValueError: they differ, so the caller counts on another tiling.
    """
    found = [plan.count for plan in plans]
    if counts is not None and list(counts) != found:
        raise ValueError(
            f"num_patches_list must be the tiles of each image, {found} by this tiler, got "
            f"{list(counts)}"
        )
