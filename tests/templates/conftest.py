"""A tokenizer with the tokens of a template."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken

from hdvl.protocols import Template
from tests.templates.toy_tokenizers import KINDS


@pytest.fixture
def tokenizer_for() -> Callable[..., Any]:
    """Builds the tokenizer of a kind that a template needs."""

    def build(template: Template, kind: str = "byte_level") -> Any:
        tokenizer = KINDS[kind](())
        tokens = [AddedToken(t, normalized=False) for t in template.special_tokens]
        tokenizer.add_tokens(tokens)
        return tokenizer

    return build
