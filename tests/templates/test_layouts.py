"""Layouts of images in a conversation: ids, labels and lengths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hdvl.protocols import Message, SharedPrefix
from hdvl.templates import ChatML
from hdvl.templates.encode import IGNORED, encode, prompt_length
from hdvl.templates.shared_prefix import encode_row

LAYOUT = ("<row_1_col_1>", 3, "<row_1_col_2>", 2, "\n\n<global>", 4, "<end>")
TALK = [Message("user", "What is it?", images=("a",)), Message("assistant", "A cat.")]


@pytest.fixture
def tokenizer(tokenizer_for: Callable[..., Any]) -> Any:
    return tokenizer_for(ChatML())


def runs(ids: list[int], image_id: int) -> list[int]:
    """The lengths of the runs of image slots."""
    found, last = list[int](), -1
    for place, token in enumerate(ids):
        if token == image_id:
            if last != place - 1:
                found.append(0)
            found[-1] += 1
            last = place
    return found


def test_tags_are_text_of_the_models_tokenizer(tokenizer: Any) -> None:
    template = ChatML()
    image_id = tokenizer.convert_tokens_to_ids(template.image_token)
    encoded = encode(template, tokenizer, TALK, [LAYOUT])
    ids = encoded.ids.tolist()
    assert runs(ids, image_id) == [3, 2, 4]
    start, stop = encoded.slots[0]
    shown = [token for token in ids[start:stop] if token != image_id]
    assert tokenizer.decode(shown) == "<row_1_col_1><row_1_col_2>\n\n<global><end>"
    plain = encode(template, tokenizer, TALK, [9])
    assert torch.equal(
        encoded.labels[encoded.labels != IGNORED], plain.labels[plain.labels != IGNORED]
    )
    rendered = template.render(TALK)
    assert prompt_length(template, tokenizer, rendered, [LAYOUT]) == len(ids)
    assert torch.equal(encode(template, tokenizer, TALK, [(9,)]).ids, plain.ids)


def test_tags_are_never_trained_on(tokenizer: Any) -> None:
    """Also if the image is in an assistant turn."""
    talk = [Message("user", "Draw."), Message("assistant", "Here <image> it is.", images=("a",))]
    template = ChatML()
    encoded = encode(template, tokenizer, talk, [("<tag>", 2, "</tag>")])
    start, stop = encoded.slots[0]
    assert (encoded.labels[start:stop] == IGNORED).all()
    said = tokenizer.decode(encoded.labels[encoded.labels != IGNORED])
    assert said.startswith("Here ") and " it is." in said and "tag" not in said


def test_several_images_have_their_own_layouts(tokenizer: Any) -> None:
    talk = [
        Message("user", "One <image> two <image>.", images=("a", "b")),
        Message("assistant", "Yes."),
    ]
    template = ChatML()
    image_id = tokenizer.convert_tokens_to_ids(template.image_token)
    encoded = encode(template, tokenizer, talk, [("<a>", 2, "<b>", 1), 5])
    assert runs(encoded.ids.tolist(), image_id) == [2, 1, 5]
    (_, b), (c, d) = encoded.slots
    assert b <= c and d - c == 5
    assert tokenizer.decode(encoded.ids[b:c]) == " two "


def test_conversations_with_a_common_beginning_end_it_after_the_tags(tokenizer: Any) -> None:
    template = ChatML()
    several = SharedPrefix(
        tuple(
            [Message("user", text, images=("a",)), Message("assistant", "Yes.")]
            for text in ("Is it red?", "Is it large?")
        )
    )
    row = encode_row(template, tokenizer, several, [LAYOUT])
    alone = [encode(template, tokenizer, talk, [LAYOUT]) for talk in several.conversations]
    prefix = alone[0].slots[0][1]
    assert row.suffix_lengths == tuple(len(each.ids) - prefix for each in alone)


def test_invalid_layouts_are_refused(tokenizer: Any) -> None:
    template = ChatML()
    with pytest.raises(ValueError, match=r"at least one token, got \[0\]"):
        encode(template, tokenizer, TALK, [("text",)])
    with pytest.raises(ValueError, match="tags of a merger must not hold the image token"):
        encode(template, tokenizer, TALK, [(template.image_token, 2)])
    with pytest.raises(ValueError, match="got 2 images and 1 placeholders"):
        encode(template, tokenizer, TALK, [1, 2])
