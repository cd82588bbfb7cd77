"""Several conversations as one row with a shared prefix, and all refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hdvl.protocols import Message, SharedPrefix
from hdvl.templates import ChatML, encode
from hdvl.templates.shared_prefix import encode_row, images_of

TEMPLATE = ChatML(system="")


def talk(question: str, answer: str, *images: Any) -> list[Message]:
    return [Message("user", question, images), Message("assistant", answer)]


@pytest.fixture
def tokenizer(tokenizer_for: Callable[..., Any]) -> Any:
    return tokenizer_for(TEMPLATE)


def test_one_conversation_is_itself(tokenizer: Any) -> None:
    messages = talk("What?", "This", "a")
    row, encoded = (f(TEMPLATE, tokenizer, messages, [3]) for f in (encode_row, encode))
    assert torch.equal(row.ids, encoded.ids) and torch.equal(row.labels, encoded.labels)
    assert row.suffix_lengths == () and images_of(messages) == ["a"]


def test_the_shared_prefix_is_written_once(tokenizer: Any) -> None:
    several = SharedPrefix((talk("What?", "This", "a"), talk("And where is it?", "There", "a")))
    row = encode_row(TEMPLATE, tokenizer, several, [5])
    each = [encode(TEMPLATE, tokenizer, messages, [5]) for messages in several.conversations]
    end = each[0].slots[-1][1]
    assert row.suffix_lengths == tuple(len(encoded.ids) - end for encoded in each)
    ids, labels = (part.split([end, *row.suffix_lengths]) for part in (row.ids, row.labels))
    for number, encoded in enumerate(each, start=1):
        assert torch.equal(torch.cat([ids[0], ids[number]]), encoded.ids)
        assert torch.equal(torch.cat([labels[0], labels[number]]), encoded.labels)
    assert images_of(several) == ["a"]


def test_other_images_are_refused() -> None:
    for other in (("b",), (), ("a", "a")):
        several = SharedPrefix((talk("What?", "This", "a"), talk("What?", "This", *other)))
        with pytest.raises(ValueError, match=r"same images .* conversation 1 shows others"):
            images_of(several)
    with pytest.raises(ValueError, match="conversations must be at least one"):
        SharedPrefix(())


@pytest.mark.parametrize(
    ("others", "counts", "message"),
    [
        ([talk("What?", "This")], [], "must begin with an image"),
        ([talk("Now <image>", "That", "a")], [4], "same up to their last image, conversation 1"),
        (
            [[*talk("Hm", "Ok"), *talk("<image>\nWhat?", "This", "a")]],
            [4],
            "no answer before the image, conversation 0",
        ),
    ],
)
def test_other_beginnings_are_refused(
    tokenizer: Any, others: list[list[Message]], counts: list[int], message: str
) -> None:
    first = others[0] if "before" in message or not counts else talk("<image>\nWhat?", "This", "a")
    with pytest.raises(ValueError, match=message):
        encode_row(TEMPLATE, tokenizer, SharedPrefix((first, *others)), counts)


def test_length_is_a_limit_of_all(tokenizer: Any) -> None:
    several = SharedPrefix((talk("What?", "This", "a"), talk("Where is it?", "There", "a")))
    count = len(encode_row(TEMPLATE, tokenizer, several, [5]).ids)
    encode_row(TEMPLATE, tokenizer, several, [5], max_length=count)
    with pytest.raises(ValueError, match=f"max_length={count - 1}, got {count} ids of 2 conv"):
        encode_row(TEMPLATE, tokenizer, several, [5], max_length=count - 1)
