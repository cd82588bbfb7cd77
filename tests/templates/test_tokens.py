"""Tokens and their characters, and the ids that end an answer."""

from collections.abc import Callable
from typing import Any

import pytest

from hdvl.protocols import Rendered
from hdvl.templates import ChatML, Plain, TurnTemplate, Xverse, stop_ids
from hdvl.templates.tokens import tokenise
from tests.templates.toy_tokenizers import KINDS, swallowing

TEXT = "Hello 图中 😀  two  spaces\n\n\nA cat. 12"


@pytest.mark.parametrize("kind", ["byte_level", "trimmed"])
def test_tokens_cover_the_text(kind: str) -> None:
    tokens = tokenise(KINDS[kind](()), Rendered(text=TEXT, spans=()))
    covered = {i for token in tokens for i in range(token.start, token.stop)}
    assert covered == set(range(len(TEXT)))
    assert all(token.start < token.stop for token in tokens)


@pytest.mark.parametrize("kind", ["byte_level", "trimmed"])
def test_no_token_crosses_an_edge(kind: str) -> None:
    for edge in range(1, len(TEXT)):
        rendered = Rendered(text=TEXT, spans=((edge, len(TEXT)),))
        tokens = tokenise(KINDS[kind](()), rendered)
        assert not any(token.start < edge < token.stop for token in tokens)


def test_markers_that_absorb_spaces_are_separate_tokens() -> None:
    tokenizer = swallowing(["<|end|>"])
    text = "a<|end|> \n b"
    tokens = tokenise(tokenizer, Rendered(text=text, spans=((0, 8),)))
    marker = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [(t.start, t.stop) for t in tokens if t.id == marker] == [(1, 8)]


def test_stop_ids(tokenizer_for: Callable[..., Any]) -> None:
    tokenizer = tokenizer_for(ChatML())
    im_end, end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert tokenizer.eos_token_id == im_end
    assert stop_ids(ChatML(), tokenizer) == [im_end]
    assert stop_ids(Xverse(), tokenizer) == sorted([im_end, end])
    assert stop_ids(Plain(assistant_end="two words here"), tokenizer) == [im_end]


def test_stop_ids_must_be_ids() -> None:
    tokenizer = KINDS["metaspace"](())
    with pytest.raises(ValueError, match=r"one of the stop strings \['<eot>'\] must be one id"):
        stop_ids(TurnTemplate(assistant_end="<eot>"), tokenizer)
