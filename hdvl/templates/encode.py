"""Encodes a conversation as ids and labels, with one rendering, one tokenisation, and labels by offsets."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hdvl.protocols import Layout, Message, Rendered, Template
from hdvl.templates.base import check_no_tokens
from hdvl.templates.layouts import Expanded, expand, show
from hdvl.templates.tokens import Token, control_tokens, tokenise

IGNORED = -100
"""The label of positions that do not count in the loss."""


class NothingSupervised(ValueError):
    """The sample has no supervised token."""


@dataclass(frozen=True)
class Encoded:
    """The ids of a conversation with its image slots, the labels, and the rendered text.

    Attributes:
        ids: the ids. An image is written as its layout: one image id for each visual token, and its tags.
        labels: the id at supervised positions, else -100. They are not shifted.
        slots: (start, stop) of each image in ``ids``, including its tags.
        truncated: the number of ids that were cut off at the end.
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
    layouts: Sequence[Layout | int] = (),
    *,
    add_generation_prompt: bool = False,
    max_length: int | None = None,
    truncate: bool = False,
) -> Encoded:
    """Render ``messages``, tokenise the text once, and label the answers.

    ``tokenizer.decode(ids[labels != -100])`` is the text of the answers, each with its end marker.

    The text of a message must not be able to end a turn or to open an image. Control tokens of the template
    and the tokenizer (except box tags) in it raise an error, or are tokenised as ordinary letters if the
    template has ``control_text="letters"``.

    A conversation longer than ``max_length`` raises an error. With ``truncate``, its end is cut off instead,
    and ``Encoded.truncated`` is the number of removed ids. Images are never cut.

    Args:
        template: the template that writes the conversation.
        tokenizer: a fast tokenizer of transformers that has the template's tokens.
        messages: the turns.
        layouts: for each image in the order of appearance, the layout of the merger or the number of visual
            tokens.
        add_generation_prompt: whether to open the assistant's turn at the end; labels may then be empty.
        max_length: the largest number of ids.
        truncate: whether to cut a longer conversation instead of raising an error.

    Raises:
        ValueError: images and placeholders differ in number, nothing is supervised, a text contains
            a control token, or the sample is too long; the message shows the sample.
    """
    rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
    if not rendered.literal:
        check_no_tokens(control_tokens(template, tokenizer, template.boxes.tokens), messages)
    image_id = _image_id(template.image_token, tokenizer, len(tokenizer))
    expanded = expand(rendered, template.image_token, as_layouts(layouts))
    tokens = tokenise(tokenizer, expanded.rendered)
    ids, labels, slots = _expand_slots(tokens, _labels(tokens, expanded), image_id, expanded)
    truncated = 0
    if max_length is not None and len(ids) > max_length:
        _check_cut(len(ids), max_length, slots, truncate and not add_generation_prompt, rendered)
        truncated = len(ids) - max_length
        ids, labels = ids[:max_length], labels[:max_length]
    if not add_generation_prompt and all(label == IGNORED for label in labels):
        after = f" after {truncated} ids were cut off" if truncated else ""
        raise NothingSupervised(
            f"a sample must have at least one supervised token, got none{after} in: "
            f"{show(rendered)}"
        )
    return Encoded(
        ids=torch.tensor(ids, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        slots=tuple(slots),
        truncated=truncated,
        rendered=rendered,
    )


def as_layouts(layouts: Sequence[Layout | int]) -> list[Layout]:
    """``layouts`` with each number replaced by the layout of that many visual tokens without tags."""
    return [(layout,) if isinstance(layout, int) else layout for layout in layouts]


def prompt_length(
    template: Template, tokenizer: Any, rendered: Rendered, layouts: Sequence[Layout | int]
) -> int:
    """The number of ids that :func:`encode` gives for a rendered conversation."""
    expanded = expand(rendered, template.image_token, as_layouts(layouts))
    slots = sum(count - 1 for count in expanded.counts)
    return len(tokenise(tokenizer, expanded.rendered)) + slots


def _labels(tokens: Sequence[Token], expanded: Expanded) -> list[int]:
    """The label of each token: its id if it is supervised, else -100. Image tokens are never supervised."""
    spans = sorted(expanded.rendered.spans)
    labels = list[int]()
    for token, start, stop in tokens:
        supervised = start < stop and _within(spans, start, stop)
        supervised = supervised and not _within(expanded.regions, start, stop)
        labels.append(token if supervised else IGNORED)
    return labels


def _within(spans: Sequence[tuple[int, int]], start: int, stop: int) -> bool:
    """Whether one of the ordered ``spans`` contains all of ``start:stop``."""
    place = bisect_right(spans, start, key=lambda span: span[0]) - 1
    return place >= 0 and stop <= spans[place][1]


@lru_cache(maxsize=8)
def _image_id(token: str, tokenizer: Any, size: int) -> int:
    """The id of an image token. ``size`` makes the cache miss after tokens were added."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"image token {token!r} must be one id of the tokenizer, got "
            f"{len(ids)}; call llm.add_tokens(template.special_tokens) first"
        )
    return int(ids[0])


def _expand_slots(
    tokens: Sequence[Token], labels: Sequence[int], image_id: int, expanded: Expanded
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Repeat each image token for its visual tokens; returns ids, labels and (start, stop) of each image."""
    found = sum(token.id == image_id for token in tokens)
    if found != len(expanded.counts):
        raise ValueError(
            f"the tokenizer must give one id for each of the {len(expanded.counts)} image tokens, got "
            f"{found} in: {show(expanded.rendered)}"
        )
    counts, out_ids, out_labels = iter(expanded.counts), list[int](), list[int]()
    slots, regions = [[-1, -1] for _ in expanded.regions], list(enumerate(expanded.regions))
    for token, label in zip(tokens, labels, strict=True):
        repeat, begin = (next(counts) if token.id == image_id else 1), len(out_ids)
        out_ids += [token.id] * repeat
        out_labels += [label] * repeat
        while regions and regions[0][1][1] <= token.start:
            regions.pop(0)
        if regions and regions[0][1][0] < token.stop:  # the token belongs to this image
            slot = slots[regions[0][0]]
            slot[:] = [begin if slot[0] < 0 else slot[0], len(out_ids)]
    return out_ids, out_labels, [(start, stop) for start, stop in slots]


def _check_cut(
    length: int, limit: int, slots: Sequence[tuple[int, int]], allowed: bool, rendered: Rendered
) -> None:
    images = f"{sum(b - a for a, b in slots)} of them of {len(slots)} images"
    if not allowed:
        raise ValueError(
            f"a conversation must not be longer than max_length={limit}, got {length} ids, "
            f"{images}; use fewer tiles, a shorter history or a larger max_length: "
            f"{show(rendered)}"
        )
    if slots and slots[-1][1] > limit:
        raise ValueError(
            f"images must end within max_length={limit}, got one that ends at {slots[-1][1]}; "
            f"use fewer tiles or a larger max_length: {show(rendered)}"
        )
