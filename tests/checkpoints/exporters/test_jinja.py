"""Templates exported as Jinja: a processor of transformers writes the same prompts as hdvl."""

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from hdvl.checkpoints.exporters.jinja import chat_template
from hdvl.protocols import Message, Template
from hdvl.templates import ChatML, Hermes2, Plain, TokenizerTemplate, Xverse

OF_TEXT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not thinking %}-{% endif %}{% endif %}"
)
OF_PARTS = OF_TEXT.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
VARIABLES = {"bos_token": "<s>", "thinking": False}
TEMPLATES: dict[str, Template] = {
    "chatml": ChatML(),
    "qwen-vl": ChatML(image_prefix="<img>", image_suffix="</img>", numbering="Picture {k}: "),
    "numbered where several": ChatML(numbering="Image-{k}: ", number_single=False),
    "hermes": Hermes2(system='START of "it"\n合 {k}'),
    "no system": ChatML(system=""),
    "plain": Plain(start="<s>", user_prefix="[INST] ", user_end=" [/INST]", assistant_end="</s>"),
    "xverse": Xverse(),
    "a tokenizer's": TokenizerTemplate(
        chat_template=OF_TEXT, variables=VARIABLES, control=["</s>"], system="Short."
    ),
    "a tokenizer's, of parts": TokenizerTemplate(
        chat_template=OF_PARTS, variables=VARIABLES, control=["</s>"], parts=True
    ),
}
TALKS = {
    "one image": [Message("user", "What?", images=("a",))],
    "turns": [
        Message("user", 'A\n"b" {{ c }} SLOT', images=("a", "b")),
        Message("assistant", "Yes."),
        Message("user", "And?", images=("c",)),
    ],
    "a system turn": [Message("system", "Be."), Message("user", "Hi")],
}


def written(source: str, messages: list[dict[str, Any]]) -> str:
    texts, _ = render_jinja_template(
        conversations=[messages], chat_template=source, add_generation_prompt=True, bos_token="<s>"
    )
    return str(texts[0])


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_it_writes_the_same(name: str, talk: str) -> None:
    template, messages = TEMPLATES[name], TALKS[talk]
    source = chat_template(template, wraps=False)
    parts = [
        {
            "role": m.role,
            "content": [*({"type": "image"} for _ in m.images), {"type": "text", "text": m.text}],
        }
        for m in messages
    ]
    wanted = template.render(messages, add_generation_prompt=True).text
    assert written(source, parts) == wanted


def test_messages_may_be_text_and_images_may_stand_behind_it() -> None:
    source = chat_template(ChatML(system=""), wraps=False)
    assert written(source, [{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    behind = [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "!"}]
    assert "user\nLook: <|image_pad|>!<|im_end|>" in written(
        source, [{"role": "user", "content": behind}]
    )


def test_a_processor_that_wraps_gets_the_bare_token() -> None:
    source = chat_template(Hermes2(), wraps=True)
    text = written(source, [{"role": "user", "content": [{"type": "image"}]}])
    assert "<IMG_CONTEXT>" in text and "<img>" not in text


def test_templates_that_jinja_cannot_express() -> None:
    with pytest.raises(ValueError, match=r"template.window must be null for an export"):
        chat_template(ChatML(window=100), wraps=False)


def test_a_number_written_by_hand_is_not_written_again() -> None:
    template = ChatML(system="", numbering="Image-{k}: ")
    source = chat_template(template, wraps=False)
    parts = [{"type": "text", "text": "Image-1: "}, {"type": "image"}]
    wanted = template.render([Message("user", "Image-1: <image>", images=("a",))]).text
    assert written(source, [{"role": "user", "content": parts}]).startswith(wanted)
    assert wanted.count("Image-1: ") == 1
