"""Ids, labels and image slots of a conversation, and every refusal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from hdvl.protocols import Message, Rendered
from hdvl.templates import ChatML, Plain, TurnTemplate, Unit, Xverse, encode
from tests.templates.toy_tokenizers import metaspace

TEMPLATE = ChatML(system="")
TALK = [
    Message("user", "<image>\nA <image> b", images=("a", "b")),
    Message("assistant", "Yes"),
    Message("user", "and <image>", images=("c",)),
    Message("assistant", "no"),
]


@pytest.fixture
def tokenizer(tokenizer_for: Callable[..., Any]) -> Any:
    return tokenizer_for(TEMPLATE)


def test_each_image_takes_its_tokens(tokenizer: Any) -> None:
    encoded = encode(TEMPLATE, tokenizer, TALK, [1, 7, 2])
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert [stop - start for start, stop in encoded.slots] == [1, 7, 2]
    mask = torch.zeros(len(encoded.ids), dtype=torch.bool)
    for start, stop in encoded.slots:
        mask[start:stop] = True
    assert torch.equal(encoded.ids == image, mask)
    assert (encoded.labels[mask] == -100).all()
    assert encoded.ids.dtype == encoded.labels.dtype == torch.int64
    single = encode(TEMPLATE, tokenizer, TALK, [1, 1, 1])
    assert torch.equal(encoded.ids[~mask], single.ids[single.ids != image])


def test_labels_are_ids_not_shifted(tokenizer: Any) -> None:
    encoded = encode(TEMPLATE, tokenizer, TALK, [1, 1, 1])
    kept = encoded.labels != -100
    assert torch.equal(encoded.labels[kept], encoded.ids[kept])
    assert tokenizer.decode(encoded.ids[kept]) == "Yes<|im_end|>no<|im_end|>"


def test_a_prompt_has_no_labels(tokenizer: Any) -> None:
    encoded = encode(TEMPLATE, tokenizer, TALK[:1], [1, 1], add_generation_prompt=True)
    assert (encoded.labels == -100).all()
    assert encoded.rendered.text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("template", [TEMPLATE, Xverse(), Plain(user_end="\nA: "), Plain()])
@pytest.mark.parametrize("answer", ["A cat.", " A", "\n\nb", "\nc", "  two", "1"])
def test_training_reads_what_generation_reads(
    template: TurnTemplate, answer: str, tokenizer_for: Callable[..., Any]
) -> None:
    tokenizer = tokenizer_for(template)
    messages = [Message("user", "A cat. Hello"), Message("assistant", answer)]
    encoded = encode(template, tokenizer, messages)
    prompt = encode(template, tokenizer, messages[:1], add_generation_prompt=True)
    count = len(prompt.ids)
    assert torch.equal(encoded.ids[:count], prompt.ids)
    assert (encoded.labels[:count] == -100).all()
    said = tokenizer.decode(encoded.ids[encoded.labels != -100])
    assert said == answer + template.assistant_end


def test_a_token_over_the_edge_of_an_uncuttable_tokenizer() -> None:
    template = Xverse(system="")
    tokenizer = metaspace(())
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in template.special_tokens])
    with pytest.raises(ValueError, match="must not reach over the edge of an answer"):
        encode(template, tokenizer, [Message("user", "Hello"), Message("assistant", "A cat.")])


def test_numbers_of_images_and_placeholders(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"got 2 images and 3 placeholders in: '<\|im_start\|>"):
        encode(TEMPLATE, tokenizer, TALK, [1, 1])
    with pytest.raises(ValueError, match=r"at least one token, got \[1, 0, 1\]"):
        encode(TEMPLATE, tokenizer, TALK, [1, 0, 1])


def test_nothing_to_train_shows_the_sample(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one supervised token, got none in: '<\|im_sta"):
        encode(TEMPLATE, tokenizer, [Message("user", "Hello")])
    long = [Message("user", "Hello " * 1000)]
    with pytest.raises(ValueError, match=r"Hello \.\.\.'$|\.\.\.'$"):
        encode(TEMPLATE, tokenizer, long)


@pytest.mark.parametrize(
    "text", ["a<|im_end|>", "<|im_start|>system", "<|image_pad|>", "x <|endoftext|>"]
)
@pytest.mark.parametrize("place", [0, 1])
def test_control_tokens_in_text_are_refused(tokenizer: Any, text: str, place: int) -> None:
    messages = [Message("user", "Hello"), Message("assistant", "Yes")]
    messages[place] = Message(messages[place].role, text)
    with pytest.raises(ValueError, match=rf"text of message {place} .*control tokens, got \['<\|"):
        encode(TEMPLATE, tokenizer, messages)


def test_box_tags_are_text_of_the_user_too(tokenizer: Any) -> None:
    messages = [
        Message("user", "Where is <ref>the door</ref>?"),
        Message("assistant", "<ref>the door</ref><box>(1,2),(3,4)</box>"),
    ]
    encoded = encode(TEMPLATE, tokenizer, messages)
    said = tokenizer.decode(encoded.ids[encoded.labels != -100])
    assert said == messages[1].text + "<|im_end|>"
    plain = ChatML(boxes=Unit())
    assert encode(plain, tokenizer, messages).rendered.text.count("<ref>") == 2


def test_an_image_token_that_is_not_one_id(tokenizer: Any) -> None:
    template = ChatML(image_token="<many letters>")
    with pytest.raises(ValueError, match=r"'<many letters>' must be one id .*llm\.add_tokens"):
        encode(template, tokenizer, TALK, [1, 1, 1])


def test_length_is_a_limit(tokenizer: Any) -> None:
    whole = encode(TEMPLATE, tokenizer, TALK, [3, 3, 3])
    length = len(whole.ids)
    assert torch.equal(
        encode(TEMPLATE, tokenizer, TALK, [3, 3, 3], max_length=length).ids, whole.ids
    )
    with pytest.raises(
        ValueError, match=rf"={length - 1}, got {length} ids, 9 of them of 3 images"
    ):
        encode(TEMPLATE, tokenizer, TALK, [3, 3, 3], max_length=length - 1)


def test_truncation_is_counted_and_never_cuts_an_image(tokenizer: Any) -> None:
    whole = encode(TEMPLATE, tokenizer, TALK, [3, 3, 3])
    last = whole.slots[-1][1]
    cut = encode(TEMPLATE, tokenizer, TALK, [3, 3, 3], max_length=last, truncate=True)
    assert len(cut.ids) == last
    assert cut.truncated == len(whole.ids) - last
    assert whole.truncated == 0
    assert tokenizer.decode(cut.ids[cut.labels != -100]) == "Yes<|im_end|>"
    with pytest.raises(ValueError, match=f"={last - 1}, got one that ends at {last}"):
        encode(TEMPLATE, tokenizer, TALK, [3, 3, 3], max_length=last - 1, truncate=True)
    with pytest.raises(ValueError, match=r"got none after \d+ ids were cut off in"):
        encode(TEMPLATE, tokenizer, TALK[:2], [3, 3], max_length=14, truncate=True)
    with pytest.raises(ValueError, match="a conversation must not be longer than max_length=9"):
        encode(
            TEMPLATE,
            tokenizer,
            TALK[:1],
            [3, 3],
            max_length=9,
            truncate=True,
            add_generation_prompt=True,
        )


def test_text_and_spans_are_given_back(tokenizer: Any) -> None:
    encoded = encode(TEMPLATE, tokenizer, TALK, [1, 1, 1])
    assert encoded.rendered == TEMPLATE.render(TALK)
    assert isinstance(encoded.rendered, Rendered)
