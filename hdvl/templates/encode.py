"""A conversation as ids and labels: one rendering, one tokenisation, labels by offsets."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hdvl.protocols import Message, Rendered, Template
from hdvl.templates.base import refuse_tokens
from hdvl.templates.tokens import control_tokens, tokenise

IGNORED = -100
"""The label of a position that is not trained."""


class NothingSupervised(ValueError):
    """A sample that would teach nothing."""


@dataclass(frozen=True)
class Encoded:
    """Ids with the slots of each image written out, their labels, and where they come from.

    Attributes:
        ids: ids; image i is ``token_counts[i]`` times the image id.
        labels: the id itself where the model is trained to say it, else -100. Not shifted.
        slots: (start, stop) of each image in ``ids``.
        truncated: how many ids were cut off the end.
        rendered: the text and the spans that were tokenised.
    """

    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    slots: tuple[tuple[int, int], ...]
    truncated: int
    rendered: Rendered


def encode(
    template: Template,
    tokenizer: Any,
    messages: Sequence[Message],
    token_counts: Sequence[int] = (),
    *,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    truncate: bool = False,
) -> Encoded:
    """Render ``messages``, tokenise the text once, and label what the model is to say.

    ``tokenizer.decode(ids[labels != -100])`` is the text of the answers, each with its end marker.

    Control tokens (the template's and the tokenizer's, but for box tags) in the text of a message
    are refused, or are but letters where the template says so: text must not be able to end a turn or
    to open an image.

    A conversation longer than ``max_length`` is an error. With ``truncate`` it loses text at its
    end instead, and ``Encoded.truncated`` says how many ids; a cut never touches an image.

    Args:
        template: how the conversation is written.
        tokenizer: a fast tokenizer of transformers that knows the template's tokens.
        messages: the turns.
        token_counts: tokens of each image, in the order of appearance.
        add_generation_prompt: open the assistant's turn at the end; labels may then be empty.
        max_length: most ids.
        truncate: cut a longer conversation rather than refuse it.

    Raises:
        ValueError: images and placeholders differ in number, nothing is supervised, a text holds
            a control token, or the sample does not fit; the message shows the sample.
    """
    rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
    if not rendered.literal:
        refuse_tokens(control_tokens(template, tokenizer, template.boxes.tokens), messages)
    ids, labels = _label(tokenizer, rendered)
    image_id = _image_id(template.image_token, tokenizer, len(tokenizer))
    ids, labels, slots = _open_slots(ids, labels, image_id, token_counts, rendered)
    truncated = 0
    if max_length is not None and len(ids) > max_length:
        _check_cut(len(ids), max_length, slots, truncate and not add_generation_prompt, rendered)
        truncated = len(ids) - max_length
        ids, labels = ids[:max_length], labels[:max_length]
    if not add_generation_prompt and all(label == IGNORED for label in labels):
        after = f" after {truncated} ids were cut off" if truncated else ""
        raise NothingSupervised(
            f"a sample must have at least one supervised token, got none{after} in: "
            f"{_show(rendered)}"
        )
    return Encoded(
        ids=torch.tensor(ids, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        slots=tuple(slots),
        truncated=truncated,
        rendered=rendered,
    )


def _show(rendered: Rendered) -> str:
    return repr(rendered.text if len(rendered.text) <= 2000 else rendered.text[:2000] + "...")


def _label(tokenizer: Any, rendered: Rendered) -> tuple[list[int], list[int]]:
    ids, labels, spans = list[int](), list[int](), sorted(rendered.spans)
    starts = [start for start, _ in spans]
    for token, start, stop in tokenise(tokenizer, rendered):
        span = bisect_right(starts, start) - 1
        said = start < stop and span >= 0 and stop <= spans[span][1]
        ids.append(token)
        labels.append(token if said else IGNORED)
    return ids, labels


@lru_cache(maxsize=8)
def _image_id(token: str, tokenizer: Any, size: int) -> int:
    """The id of an image token. ``size`` makes room for tokens added later."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"image token {token!r} must be one id of the tokenizer, got "
            f"{len(ids)}; call llm.add_tokens(template.special_tokens) first"
        )
    return int(ids[0])


def _open_slots(
    ids: list[int],
    labels: list[int],
    image_id: int,
    counts: Sequence[int],
    rendered: Rendered,
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Each image id as often as its image has tokens; images are never trained on."""
    places = [position for position, token in enumerate(ids) if token == image_id]
    if len(places) != len(counts):
        raise ValueError(
            f"images must be as many as image placeholders, got {len(counts)} images and "
            f"{len(places)} placeholders in: {_show(rendered)}"
        )
    if any(count < 1 for count in counts):
        raise ValueError(f"every image must have at least one token, got {list(counts)}")
    out_ids, out_labels, slots, done = list[int](), list[int](), list[tuple[int, int]](), 0
    for position, count in zip(places, counts, strict=True):
        out_ids += ids[done:position]
        out_labels += labels[done:position]
        slots.append((len(out_ids), len(out_ids) + count))
        out_ids += [image_id] * count
        out_labels += [IGNORED] * count
        done = position + 1
    return out_ids + ids[done:], out_labels + labels[done:], slots


def _check_cut(
    length: int, limit: int, slots: Sequence[tuple[int, int]], allowed: bool, rendered: Rendered
) -> None:
    images = f"{sum(b - a for a, b in slots)} of them of {len(slots)} images"
    if not allowed:
        raise ValueError(
            f"a conversation must not be longer than max_length={limit}, got {length} ids, "
            f"{images}; use fewer tiles, a shorter history or a larger max_length: "
            f"{_show(rendered)}"
        )
    if slots and slots[-1][1] > limit:
        raise ValueError(
            f"images must end within max_length={limit}, got one that ends at {slots[-1][1]}; "
            f"use fewer tiles or a larger max_length: {_show(rendered)}"
        )
