"""Chat templates as processors of transformers use them: leading tokens, answers without an end."""

from typing import Any

import pytest
from tokenizers import processors

from hdvl.checkpoints.importers.transformers_layout import as_processor
from hdvl.protocols import Message
from hdvl.templates import TokenizerTemplate
from hdvl.templates.encode import encode
from tests.templates.toy_tokenizers import KINDS

TURNS = (
    "{% for m in messages %}{{ m.role.upper() + ': ' + m.content + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TALK = [
    Message("user", "<image>\nWhat is it?", images=("a",)),
    Message("assistant", "A cat."),
    Message("user", "Sure?"),
]


def tokenizer_of(kind: str, *, end: str = "") -> Any:
    tokenizer = KINDS[kind](["<s>", "</s>", "<image>"])
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    names = ["<s>", *([end] if end else [])]
    added = processors.TemplateProcessing(
        single=f"<s> $A {end}".strip(),
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names],
    )
    tokenizer.backend_tokenizer.post_processor = added
    return tokenizer


def template_of(tokenizer: Any, source: str) -> TokenizerTemplate:
    tokenizer.chat_template = source
    template = TokenizerTemplate.from_tokenizer(tokenizer, image_token="<image>")
    return as_processor(template, tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_in_front_is_the_tokenizers(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    template = template_of(tokenizer, TURNS)
    assert (template.start, template.end) == ("<s>", "")
    found = encode(template, tokenizer, TALK, [3], add_generation_prompt=True)
    text = "USER: <image><image><image>\nWhat is it? ASSISTANT: A cat. USER: Sure? ASSISTANT:"
    assert found.ids.tolist() == tokenizer(text)["input_ids"]
    assert tokenizer.decode(found.ids[found.labels != -100]).strip() == "A cat."
    assert template.stop == ("</s>",)


def test_a_token_that_the_template_writes_is_not_added_again() -> None:
    tokenizer = tokenizer_of("byte_level")
    template = template_of(tokenizer, "{{ bos_token }}" + TURNS.replace("+ ' '", "+ '</s>'"))
    assert (template.start, template.end) == ("", None)
    assert template.render(TALK, add_generation_prompt=True).text.count("<s>") == 1


def test_tokens_at_the_end_are_refused() -> None:
    with pytest.raises(ValueError, match="must add tokens at the beginning of a text only"):
        template_of(tokenizer_of("byte_level", end="</s>"), TURNS)
