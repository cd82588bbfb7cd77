"""Answers of a given form: a regular expression, a JSON schema or a grammar, by llguidance."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.decoding.sampling import Guided

SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Separators in JSON, unless the schema has an ``x-guidance``: those of Python's ``json.dumps``.
With arbitrary white space, a weak model could write spaces until the length limit."""


class Guide:
    """The state of one answer whose text must have a form.

    Args:
        form: the form.
        tokenizer: the model's, a fast tokenizer of transformers.
        rows: the number of logits.
        end_id: the id that ends a text whose form is complete.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the form cannot be read.
    """

    def __init__(self, form: Guided, tokenizer: Any, rows: int, end_id: int) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise ImportError(
                "guided answers need llguidance; install it with: pip install 'hdvl[serving]'"
            ) from error
        self._rows = rows
        self._matcher = LLMatcher(_tokenizer(tokenizer, rows, end_id), grammar_of(form))
        self._check()

    def masked(self, logits: Float[Tensor, " v"]) -> Float[Tensor, " v"]:
        """Return the logits with minus infinity for the ids that the form does not allow.

        Raises:
            ValueError: it allows none.
        """
        import llguidance.numpy as masks

        bits = masks.allocate_token_bitmask(1, self._rows)
        masks.fill_next_token_bitmask(self._matcher, bits)
        self._check()
        allowed = np.unpackbits(bits.view(np.uint8)[0], bitorder="little")[: self._rows]
        if not allowed.any():
            raise ValueError("guided text has come to an end where its form allows no id")
        keep = torch.from_numpy(allowed.astype(bool)).to(logits.device)
        return logits.masked_fill(~keep, -torch.inf)

    def accept(self, token: int) -> None:
        """Advance the state by ``token``, the next id of the answer."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(
                f"guided must be a form that llguidance reads: {self._matcher.get_error()}"
            )


def grammar_of(form: Guided) -> str:
    """Return the grammar of the form in the syntax of llguidance.

    Raises:
        ValueError: the JSON schema is not valid JSON.
    """
    from llguidance import LLMatcher

    if form.regex is not None:
        return str(LLMatcher.grammar_from_regex(form.regex))
    if form.grammar is not None:
        return str(LLMatcher.grammar_from_lark(form.grammar))
    schema = form.json_schema
    if isinstance(schema, Mapping):
        schema = json.dumps(schema)
    try:
        known = json.loads(str(schema))
    except json.JSONDecodeError as error:
        raise ValueError(f"guided.json_schema must be JSON: {error}") from error
    if known is True:  # equivalent to {}, to which the white space options can be added
        known = {}
    own = isinstance(known, dict) and "x-guidance" in known
    return str(LLMatcher.grammar_from_json_schema(json.dumps(known), None if own else SPACES))


@lru_cache(maxsize=4)
def _tokenizer(tokenizer: Any, rows: int, end_id: int) -> Any:
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, n_vocab=rows, eos_token=end_id)
