"""Labels for many chat templates and kinds of tokenizers."""

import re
from functools import lru_cache
from typing import Any

import pytest
from tokenizers import AddedToken

from hdvl.protocols import Message, Template
from hdvl.templates import IGNORED, Encoded, TokenizerTemplate, encode, stop_ids
from tests.templates.chat_templates import STYLES, ChatStyle
from tests.templates.toy_tokenizers import KINDS, swallowing

IMAGE = "<|image_pad|>"
TAGS = ["<ref>", "</ref>", "<box>", "</box>"]
CONVERSATIONS = {
    "one turn": [Message("user", "Hello"), Message("assistant", "A cat.")],
    "turns": [
        Message("user", "What is it?"),
        Message("assistant", "A cat."),
        Message("user", "A cat.\nAssistant: A cat. [INST USER: no"),
        Message("assistant", "Yes, A cat.\n\nA second line.\nUSER: x ASSISTANT: y"),
        Message("user", "12?"),
        Message("assistant", "A cat."),
    ],
    "images": [
        Message("user", "<image>\nand <image> 图", images=("a", "b")),
        Message("assistant", "在<ref>门 1</ref><box>(1,22),(333,999)</box>"),
        Message("user", "more", images=("c",)),
        Message("assistant", "no"),
    ],
    "unicode": [
        Message("user", "图中的总金额是多少？ 😀👍🏽 é é"),
        Message("assistant", "合计：￥12.50 👩‍👩‍👧 ¿qué? naïve ﬁ \u200d\u00a0x"),
    ],
}


@lru_cache
def make(name: str, kind: str) -> tuple[TokenizerTemplate, Any]:
    style = STYLES[name]
    special = list(dict.fromkeys([style.eos, *([style.bos] if style.bos else []), *style.tokens]))
    build = swallowing if kind == "swallowing" else KINDS[kind]
    tokenizer = build(special)
    tokenizer.eos_token = style.eos
    if style.bos:
        tokenizer.bos_token = style.bos
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (IMAGE, *TAGS)])
    tokenizer.chat_template = style.source
    return TokenizerTemplate.from_tokenizer(tokenizer), tokenizer


def said(encoded: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode(encoded.ids[encoded.labels != IGNORED]))


def expected(messages: list[Message], style: ChatStyle) -> list[str]:
    return [m.text + style.end for m in messages if m.role == "assistant"]


@pytest.mark.slow_beyond(7, every=3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("name", STYLES)
def test_the_labels_are_the_answers_and_their_ends(name: str, talk: str, kind: str) -> None:
    template, tokenizer = make(name, kind)
    messages = CONVERSATIONS[talk]
    images = sum(len(m.images) for m in messages)
    if (
        name == "xverse" and kind == "metaspace"
    ):  # its prompt ends with a space, which cannot be cut
        with pytest.raises(ValueError, match="must not reach over the edge of an answer"):
            encode(template, tokenizer, messages, [3] * images)
        return
    encoded = encode(template, tokenizer, messages, [3] * images)

    answers = expected(messages, STYLES[name])
    spans = [encoded.rendered.text[a:b] for a, b in encoded.rendered.spans]
    assert [span.lstrip(" ") for span in spans] == answers
    got, wanted = said(encoded, tokenizer), "".join(spans)
    if (
        kind == "metaspace"
    ):  # its decoder takes one space from the front, and puts some after markers
        got, wanted = (re.sub("[ ▁]", "", text) for text in (got, wanted))
    assert got == wanted
    assert (encoded.ids == tokenizer.convert_tokens_to_ids(IMAGE)).sum() == 3 * images


@pytest.mark.parametrize("name", STYLES)
def test_a_system_turn_is_written_or_refused(name: str) -> None:
    template, tokenizer = make(name, "byte_level")
    messages = [Message("system", "Be brief."), *CONVERSATIONS["one turn"]]
    if STYLES[name].system:
        encoded = encode(template, tokenizer, messages)
        assert "Be brief." in encoded.rendered.text
        assert said(encoded, tokenizer).lstrip(" ") == expected(messages, STYLES[name])[0]
    else:
        with pytest.raises(ValueError, match="the chat template rejects the conversation"):
            template.render(messages)


@pytest.mark.parametrize("name", STYLES)
def test_a_prompt_opens_the_training_text(name: str) -> None:
    template, _ = make(name, "byte_level")
    messages = CONVERSATIONS["one turn"]
    prompt = template.render(messages[:1], add_generation_prompt=True)
    whole = template.render(messages)
    assert prompt.spans == ()
    if name in ("qwen3", "deepseek"):  # their prompts and their histories differ by the reasoning
        return
    # Zephyr's prompt has a newline that its history has too; every other ends where the span begins.
    assert whole.text[: whole.spans[0][0]] == prompt.text


@pytest.mark.parametrize("name", STYLES)
def test_stops_are_found(name: str) -> None:
    template, tokenizer = make(name, "byte_level")
    assert isinstance(template, Template)
    assert template.stop[0] == STYLES[name].end.strip()
    assert tokenizer.convert_tokens_to_ids(template.stop[0]) in stop_ids(template, tokenizer)


def test_reasoning_is_trained_where_the_template_keeps_it() -> None:
    template, tokenizer = make("qwen3", "byte_level")
    thoughts = "<think>\nA cat? Yes.\n</think>\n\nA cat."
    messages = [
        Message("user", "What?"),
        Message("assistant", thoughts),
        Message("user", "Sure?"),
        Message("assistant", thoughts),
    ]
    encoded = encode(template, tokenizer, messages)
    assert "<think>" not in encoded.rendered.text.split("Sure?")[0]
    assert said(encoded, tokenizer) == f"A cat.<|im_end|>{thoughts}<|im_end|>"


def test_variables_reach_the_template() -> None:
    _, tokenizer = make("qwen3", "byte_level")
    template = TokenizerTemplate.from_tokenizer(tokenizer, variables={"enable_thinking": False})
    text = template.render([Message("user", "a")], add_generation_prompt=True).text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_default_system_turn() -> None:
    _, tokenizer = make("chatml", "byte_level")
    template = TokenizerTemplate.from_tokenizer(tokenizer, system="Be brief.")
    assert template.render([Message("user", "a")]).text.startswith("<|im_start|>system\nBe brief.")


def test_markers_that_absorb_spaces() -> None:
    template, tokenizer = make("phi3", "swallowing")
    encoded = encode(template, tokenizer, CONVERSATIONS["turns"])
    answers = expected(CONVERSATIONS["turns"], STYLES["phi3"])
    assert said(encoded, tokenizer) == "".join(answers)


def test_the_end_marker_can_be_left_out() -> None:
    for name in ("llama2", "smollm"):
        _, tokenizer = make(name, "byte_level")
        template = TokenizerTemplate.from_tokenizer(tokenizer, supervise_end=False)
        encoded = encode(template, tokenizer, CONVERSATIONS["one turn"])
        assert said(encoded, tokenizer).lstrip() == "A cat."


def test_an_end_that_is_no_token_must_be_named() -> None:
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    template = TokenizerTemplate(chat_template=source)
    with pytest.raises(ValueError, match="must be followed by its end marker, a control token"):
        template.render(CONVERSATIONS["one turn"])
    named = TokenizerTemplate(chat_template=source, end="\n")
    rendered = named.render(CONVERSATIONS["one turn"])
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["A cat.\n"]
    wrong = TokenizerTemplate(chat_template=source, end="###")
    with pytest.raises(ValueError, match=r"its end marker, '###', got '\\n'"):
        wrong.render(CONVERSATIONS["one turn"])


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}</s>{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}</s>{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}</s>{% endfor %}",
    ],
)
def test_spans_that_cannot_be_verified_are_an_error(source: str) -> None:
    template = TokenizerTemplate(chat_template=source, control=["</s>"])
    with pytest.raises(ValueError, match="places of the answers cannot be proven"):
        template.render(CONVERSATIONS["turns"])


def test_answers_in_another_order_are_found_where_they_stand() -> None:
    source = "{% for m in messages | reverse %}{{ m.content }}</s>{% endfor %}"
    template = TokenizerTemplate(chat_template=source, control=["</s>"])
    messages = [Message("user", "a"), Message("assistant", "A"), Message("assistant", "B")]
    with pytest.raises(ValueError, match="places of the answers cannot be proven"):
        template.render(messages)


def test_generation_marks_must_hold_the_answers() -> None:
    mark = "{% generation %}{{ '%s' }}{% endgeneration %}</s>"
    once = TokenizerTemplate(chat_template=mark.replace("%s", "A cat."), control=["</s>"])
    with pytest.raises(ValueError, match="got 1 marks for 3 answers"):
        once.render(CONVERSATIONS["turns"])
    other = TokenizerTemplate(chat_template=mark.replace("%s", "A dog."), control=["</s>"])
    with pytest.raises(ValueError, match=r"must hold the answer 'A cat\.', got 'A dog\.'"):
        other.render(CONVERSATIONS["one turn"])


def test_outer_spaces_of_answers_that_the_template_trims() -> None:
    template, tokenizer = make("llama3", "byte_level")
    messages = [Message("user", "a"), Message("assistant", "  A cat. \n")]
    assert said(encode(template, tokenizer, messages), tokenizer) == "A cat.<|eot_id|>"


def test_an_empty_answer_is_its_end() -> None:
    template, tokenizer = make("qwen2.5", "byte_level")
    messages = [Message("user", "a"), Message("assistant", "")]
    assert said(encode(template, tokenizer, messages), tokenizer) == "<|im_end|>"


def test_a_tokenizer_without_a_template() -> None:
    _, tokenizer = make("zephyr", "trimmed")
    source, tokenizer.chat_template = tokenizer.chat_template, None
    with pytest.raises(ValueError, match="tokenizer must have a chat template"):
        TokenizerTemplate.from_tokenizer(tokenizer)
    tokenizer.chat_template = source


def test_it_comes_from_a_folder(tmp_path: Any) -> None:
    template, tokenizer = make("llama3", "byte_level")
    tokenizer.save_pretrained(tmp_path)
    loaded = TokenizerTemplate.from_pretrained(str(tmp_path))
    assert loaded.render(CONVERSATIONS["turns"]) == template.render(CONVERSATIONS["turns"])


def test_templates_that_read_parts_only() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content if part.type == 'text' %}"
        "{{ part.text }}{% endfor %}</s>{% endfor %}"
    )
    told = {"chat_template": source, "control": ["</s>"], "image_token": IMAGE}
    talk = [Message("user", "A <image>?", images=("a",)), Message("assistant", "Yes.")]
    rendered = TokenizerTemplate(**told, parts=True).render(talk)
    assert rendered.text == f"<user>A {IMAGE}?</s><assistant>Yes.</s>"
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Yes.</s>"]
    with pytest.raises(ValueError, match="cannot be proven"):
        TokenizerTemplate(**told).render(talk)


def test_images_are_parts_for_templates_that_place_them() -> None:
    """As in Idefics3 and SmolVLM, a space follows the role only before text, not before an image."""
    source = (
        "{% for m in messages %}{{ m.role }}{% if m.content[0].type == 'image' %}:{% else %}: {% endif %}"
        "{% for part in m.content %}{% if part.type == 'image' %}" + IMAGE + "{% else %}"
        "{{ part.text }}{% endif %}{% endfor %}</s>{% endfor %}"
    )
    told = {"chat_template": source, "markers": "</s>", "image_token": IMAGE, "image_parts": True}
    talk = [
        Message("user", "A <image>?", images=("a",)),
        Message("assistant", "Yes."),
        Message("user", "Both?", images=("b", "c")),
        Message("assistant", ""),
    ]
    template = TokenizerTemplate(**told)
    rendered = template.render(talk)
    assert rendered.text == (
        f"user: A {IMAGE}?</s>assistant: Yes.</s>user:{IMAGE}{IMAGE}Both?</s>assistant: </s>"
    )
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Yes.</s>", "</s>"]
    assert template.special_tokens == ("</s>", IMAGE, *TAGS)
    with pytest.raises(ValueError, match=r"image_parts=true leaves .* got numbering='{k}: '"):
        TokenizerTemplate(**told, numbering="{k}: ")


@pytest.mark.parametrize("marks", [("", ""), ("{% generation %}", "{% endgeneration %}")])
def test_what_a_template_writes_for_an_image_becomes_the_image_token(
    marks: tuple[str, str],
) -> None:
    """As processors do it: InternVL's puts tokens around it, Aya Vision's replaces ``<image>``."""
    source = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}"
        + "{{ m.content[0].text }}</s>".join(marks)
        + "{% else %}{% for part in m.content %}{% if part.type == 'image' %}[IMAGE]{% else %}"
        "{{ part.text }}{% endif %}{% endfor %}</s>{% endif %}{% endfor %}"
    )
    template = TokenizerTemplate(
        chat_template=source,
        markers="</s>",
        image_token=IMAGE,
        image_parts=True,
        image_prefix="<img>",
        image_suffix="</img>",
        placeholder="[IMAGE]",
    )
    talk = [
        Message("user", "A <image> and <image>?", images=("a", "b")),
        Message("assistant", "Yes."),
        Message("user", "C?", images=("c",)),
        Message("assistant", "No."),
    ]
    rendered = template.render(talk)
    slot = f"<img>{IMAGE}</img>"
    assert rendered.text == (
        f"user:A {slot} and {slot}?</s>assistant:Yes.</s>user:{slot}C?</s>assistant:No.</s>"
    )
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Yes.</s>", "No.</s>"]
    with pytest.raises(ValueError, match=r"must not hold control tokens, got \['\[IMAGE\]'\]"):
        template.render([Message("user", "[IMAGE]")])
    with pytest.raises(ValueError, match="with image_parts=false; set image_parts=true"):
        TokenizerTemplate(chat_template=source, placeholder="[IMAGE]")
