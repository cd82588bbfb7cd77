"""Templates of fixed strings: published prompts and supervised spans."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hdvl.protocols import Message, Template
from hdvl.templates import ChatML, Hermes2, Norm1000, Plain, TurnTemplate, Unit, Xverse, encode

TURNS = [
    Message("user", "<image>\nWhat is this?", images=("a",)),
    Message("assistant", "A cat."),
    Message("user", "Color?"),
    Message("assistant", "灰色 😀\nand white"),
]


def golden(root: Path, name: str) -> tuple[str, list[Message], str]:
    data = json.loads((root / "tests/golden" / name).read_text(encoding="utf-8"))
    messages = [
        Message(role, text, images=("a",) * (text.count("<image>") + text.count("<ImageHere>")))
        for role, text in data["turns"]
    ]
    return data["system"], messages, data["prompt"]


def test_hermes2_equals_internvl(root: Path) -> None:
    system, messages, prompt = golden(root, "internvl_prompt.json")
    template = Hermes2(image_token="<image>", image_prefix="", image_suffix="")
    assert template.system == system
    assert template.render(messages, add_generation_prompt=True).text == prompt
    whole = Hermes2().render(messages, add_generation_prompt=True).text
    assert whole == prompt.replace("<image>", "<img><IMG_CONTEXT></img>")


def test_xverse_equals_xverse_v(root: Path) -> None:
    system, messages, prompt = golden(root, "xverse_v_prompt.json")
    ours = [
        Message(m.role, m.text.replace("<ImageHere>", "<image>"), images=m.images) for m in messages
    ]
    template = Xverse()
    assert template.system == system
    assert template.render(ours, add_generation_prompt=True).text == prompt
    assert template.stop == ("<|endoftext|>",)


def test_xverse_without_a_system_turn_is_its_evaluation_prompt() -> None:
    text = Xverse(system="").render([TURNS[0]], add_generation_prompt=True).text
    assert text == "Human: <ImageHere>\nWhat is this?\nAssistant: "


@pytest.mark.parametrize("kind", ["byte_level", "trimmed"])
@pytest.mark.parametrize(
    "text", ["<image>\nWhat?", "<image><image>", "A <image> b <image>", "<image>", "none"]
)
def test_xverses_segments_are_tokenised_on_their_own(
    text: str, kind: str, tokenizer_for: Callable[..., Any]
) -> None:
    """Also for adjacent images and images at the ends, for which the published training code fails."""
    template = Xverse(system="")
    tokenizer = tokenizer_for(template, kind)
    count = text.count("<image>")
    messages = [Message("user", text, ("a",) * count)]
    ids = encode(template, tokenizer, messages, [3] * count, add_generation_prompt=True).ids
    segments = f"Human: {text}\nAssistant: ".split("<image>")
    image = tokenizer.convert_tokens_to_ids("<ImageHere>")
    expected = tokenizer(segments[0])["input_ids"]
    for segment in segments[1:]:
        expected += [image] * 3 + tokenizer(segment)["input_ids"]
    assert ids.tolist() == expected


def test_xverses_prompt_begins_without_a_newline() -> None:
    """No newline before "Human:", which the published text-only evaluation writes."""
    messages = [Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]
    text = Xverse(system="").render(messages, add_generation_prompt=True).text
    assert text == "Human: Q1\nAssistant: A1<|endoftext|>Human: Q2\nAssistant: "


def test_chatml() -> None:
    rendered = ChatML(system="Be brief.").render(TURNS[:2])
    assert rendered.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|image_pad|>\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
    )
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["A cat.<|im_end|>"]


def test_qwen_vls_images_are_numbered_over_the_conversation() -> None:
    template = ChatML(
        numbering="Picture {k}: ",
        image_prefix="<img>",
        image_token="<imgpad>",
        image_suffix="</img>",
    )
    messages = [
        Message("user", "Compare.", images=("a", "b")),
        Message("assistant", "No."),
        Message("user", "And <image>?", images=("c",)),
    ]
    text = template.render(messages, add_generation_prompt=True).text
    assert (
        "user\nPicture 1: <img><imgpad></img>\nPicture 2: <img><imgpad></img>\nCompare.<|" in text
    )
    assert "user\nAnd Picture 3: <img><imgpad></img>?<|im_end|>" in text
    assert template.special_tokens == (
        "<|im_start|>",
        "<|im_end|>",
        "<img>",
        "<imgpad>",
        "</img>",
        *Norm1000().tokens,
    )


def test_a_system_message_takes_the_place_of_the_default() -> None:
    messages = [Message("system", "Be kind."), TURNS[0]]
    text = ChatML(system="Be brief.").render(messages).text
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")
    assert "brief" not in text
    empty = [Message("system", ""), TURNS[0]]
    assert ChatML().render(empty).text.startswith("<|im_start|>user\n")


def test_plain_is_question_and_answer() -> None:
    template = Plain(user_prefix="Question: ", user_end="\nAnswer: ", start="<s>")
    rendered = template.render(TURNS[2:])
    assert rendered.text == "<s>Question: Color?\nAnswer: 灰色 😀\nand white<|endoftext|>"
    assert isinstance(template.boxes, Unit)
    assert Plain(assistant_end="</s>", extra_stop=["\n\n"]).stop == ("</s>", "\n\n")


@pytest.mark.parametrize(
    "template",
    [
        ChatML(),
        Hermes2(),
        Xverse(),
        Plain(),
        Plain(user_prefix="Q: ", user_end="\nA: "),
        TurnTemplate(user_prefix="U:", assistant_prefix="A:", assistant_end="\n\n", user_end="\n"),
    ],
)
@pytest.mark.parametrize("kind", ["byte_level", "trimmed"])
def test_the_labels_are_the_answers_and_their_ends(
    template: TurnTemplate, kind: str, tokenizer_for: Callable[..., Any]
) -> None:
    assert isinstance(template, Template)
    tokenizer = tokenizer_for(template, kind)
    encoded = encode(template, tokenizer, TURNS, [4])
    end = template.assistant_end
    said = tokenizer.decode(encoded.ids[encoded.labels != -100])
    assert said == f"A cat.{end}灰色 😀\nand white{end}"
    assert tokenizer.decode(encoded.ids).count(template.image_token) == 4


def test_qwen_vls_published_labels(tokenizer_for: Callable[..., Any]) -> None:
    template = ChatML(system="S", supervise_markers=True)
    tokenizer = tokenizer_for(template)
    encoded = encode(template, tokenizer, TURNS[2:])
    kept = tokenizer.decode(encoded.ids[encoded.labels != -100])
    frame = "<|im_start|><|im_end|>\n"
    assert kept == frame * 2 + "<|im_start|>灰色 😀\nand white<|im_end|>\n"


def test_the_end_marker_can_be_left_out() -> None:
    rendered = ChatML(supervise_end=False).render(TURNS[:2])
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["A cat."]


@pytest.mark.parametrize(
    "roles",
    [
        [],
        ["system"],
        ["assistant"],
        ["user", "user"],
        ["user", "system"],
        ["user", "assistant"] * 2 + ["assistant"],
    ],
)
def test_turns_must_alternate(roles: list[Any]) -> None:
    with pytest.raises(ValueError, match="an optional system, then user and assistant alternating"):
        ChatML().render([Message(role, "a") for role in roles])


def test_values_from_a_configuration_compare_equal() -> None:
    markers: Any = ["<|im_start|>", "<|im_end|>"]
    assert ChatML(markers=markers) == ChatML()
    assert hash(ChatML(markers=markers)) == hash(ChatML())
