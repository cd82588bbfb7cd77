"""Which texts a form allows."""

from typing import Any

import pytest

from hdvl.decoding import SamplingParams
from hdvl.decoding.guidance import Guide
from hdvl.decoding.sampling import Guided
from hdvl.llms import build_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "b"],
}
FREE = {**SCHEMA, "x-guidance": {}}


def allows(schema: Any, text: str) -> bool:
    """Whether the text follows the schema, up to its end."""
    pytest.importorskip("llguidance")
    tokenizer = build_tokenizer(vocab_size=300)
    end = int(tokenizer.eos_token_id)
    guide = Guide(Guided(json_schema=schema), tokenizer, len(tokenizer), end)
    try:
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            guide.accept(token)
        guide.accept(end)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("schema", "text", "allowed"),
    [
        (SCHEMA, '{"a": 1, "b": [2, 3]}', True),
        (SCHEMA, '{"a":  1, "b": []}', False),
        (SCHEMA, '{"a": 1,\n"b": []}', False),
        (SCHEMA, ' {"a": 1, "b": []}', False),
        (SCHEMA, '{"a": 1}', False),
        (FREE, '{"a":  1,\n "b": []}', True),
        ({}, '{"x": [1, null]}', True),
        ({}, '{"x":   1}', False),
        ("true", "[1, 2]", True),
        ("true", "[1,  2]", False),
    ],
)
def test_json_has_the_white_space_of_python(schema: Any, text: str, allowed: bool) -> None:
    assert allows(schema, text) is allowed
    assert SamplingParams(guided=Guided(json_schema=schema)).guided is not None
