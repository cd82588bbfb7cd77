"""Writes the layouts of images into ids that another library has tokenised, one image token an image.

:func:`~hdvl.templates.encode.encode` tokenises a conversation with the layouts in its text. A server that
tokenises the prompt itself, such as vLLM, has ids with one image token for each image; :func:`expand_ids`
gives the ids that ``encode`` gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hdvl.protocols import Layout, Rendered
from hdvl.templates.tokens import tokenise


@dataclass(frozen=True)
class ExpandedIds:
    """The ids of a prompt with the layouts of its images.

    Attributes:
        ids: the ids.
        spans: (start, stop) in ``ids`` of each image, from its first to its last visual token. Tags between
            visual tokens are inside, tags before the first and after the last one are outside.
    """

    ids: list[int]
    spans: tuple[tuple[int, int], ...]


def layout_ids(tokenizer: Any, image_token: str, layout: Layout) -> list[int]:
    """The ids of a layout that stands alone: its tags, and an image token for each visual token."""
    ids = list[int]()
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    for piece in layout:
        if isinstance(piece, int):
            ids += [image_id] * piece
        else:
            ids += _between(tokenizer, piece, image_token, image_token)
    return ids


def expand_ids(
    tokenizer: Any, image_token: str, prompt: Sequence[int], images: Sequence[Sequence[int]]
) -> ExpandedIds:
    """Replace each image token of ``prompt`` by the ids of an image.

    Tags before the first and after the last visual token of an image are tokenised together with the text
    around them, since a tokenizer may join them.

    Args:
        tokenizer: the tokenizer that made ``prompt``, without tokens that it adds to a text.
        image_token: the token in the image slots.
        prompt: the ids of the prompt.
        images: what :func:`layout_ids` gives for each image, in order of appearance.

    Raises:
        ValueError: images and image tokens differ in number, or the text beside a tag cannot be restored
            from its ids.
    """
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    texts = _split(prompt, image_id)
    if len(texts) != len(images) + 1:
        raise ValueError(
            f"images must be as many as image tokens {image_token!r} in the prompt, got {len(images)} images "
            f"and {len(texts) - 1} tokens; write one token for each image"
        )
    # Each text stands between the tail of the image before it and the head of the image after it.
    ids, spans = list[int](), list[tuple[int, int]]()
    tail, before = list[int](), ""
    for text, image in zip(texts, images, strict=False):  # the last text has no image after it
        head, slots, next_tail = _around_slots(image, image_id)
        ids += _joined(tokenizer, (tail, text, head), before, image_token)
        spans.append((len(ids), len(ids) + len(slots)))
        ids += slots
        tail, before = next_tail, image_token
    ids += _joined(tokenizer, (tail, texts[-1], []), before, "")
    return ExpandedIds(ids, tuple(spans))


def _split(ids: Sequence[int], at: int) -> list[list[int]]:
    """The pieces of ``ids`` between the ids ``at``."""
    pieces: list[list[int]] = [[]]
    for token in ids:
        if token == at:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _around_slots(image: Sequence[int], image_id: int) -> tuple[list[int], list[int], list[int]]:
    """The ids of an image before its first slot, from the first to the last slot, and after the last one."""
    slots = [place for place, token in enumerate(image) if token == image_id]
    if not slots:
        raise ValueError("every image must have at least one visual token, got none")
    first, last = slots[0], slots[-1] + 1
    return list(image[:first]), list(image[first:last]), list(image[last:])


def _joined(
    tokenizer: Any, pieces: tuple[list[int], list[int], list[int]], before: str, after: str
) -> list[int]:
    """The ids of the tags at the end of an image, the text after it, and the tags at the start of the next.

    A tokenizer may join a tag with the text beside it, but never across an added token such as
    ``<|im_end|>``. So only the ids between a tag and the nearest added token are made anew.

    Args:
        tokenizer: the tokenizer.
        pieces: the ids of the three, each as if it stood alone.
        before: the image token in front of them, or an empty string at the start of the prompt.
        after: the image token behind them, or an empty string at its end.
    """
    tail, text, head = pieces
    added = tokenizer.added_tokens_decoder
    places = [place for place, token in enumerate(text) if token in added]
    if not places:
        return _tokenised_anew(tokenizer, pieces, before, after)
    first, last = places[0], places[-1]
    start, stop = str(added[text[first]]), str(added[text[last]])
    return [
        *_tokenised_anew(tokenizer, (tail, text[:first], []), before, start),
        *text[first : last + 1],
        *_tokenised_anew(tokenizer, ([], text[last + 1 :], head), stop, after),
    ]


def _tokenised_anew(
    tokenizer: Any, pieces: tuple[list[int], list[int], list[int]], before: str, after: str
) -> list[int]:
    """The ids of the three pieces as one text; see :func:`_joined`.

    Raises:
        ValueError: the ids of the text are not those of the text that they are decoded to.
    """
    tail, text, head = pieces
    if not tail and not head:
        return text
    written = [
        str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for ids in pieces
    ]
    if _between(tokenizer, written[1], before, after) != text:
        raise ValueError(
            f"the ids beside an image's tags must be those that the tokenizer gives for their text, "
            f"{written[1]!r}; pass the prompt as text"
        )
    return _between(tokenizer, "".join(written), before, after)


def _between(tokenizer: Any, text: str, before: str, after: str) -> list[int]:
    """The ids of ``text`` where it stands between the tokens ``before`` and ``after``, which may be empty."""
    if not text:
        return []
    ids = [token.id for token in tokenise(tokenizer, Rendered(before + text + after, ()))]
    return ids[bool(before) : len(ids) - bool(after)]
