"""Tokenises a rendered text into ids with the characters that each id covers."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from hdvl.protocols import Rendered, Template


class Token(NamedTuple):
    """An id and the characters ``start:stop`` of the text that it covers."""

    id: int
    start: int
    stop: int


def tokenise(tokenizer: Any, rendered: Rendered) -> list[Token]:
    """The tokens of the text. No token crosses the edge of a span.

    The text is tokenised as a whole, or in pieces if it has literal spans or an opening. If a token crosses
    an edge, for example for an answer that begins with a newline after a newline, the text is split there
    and tokenised in pieces, because in generation the prompt ends at this edge.

    Raises:
        ValueError: the pieces decode to another text than the whole.
    """
    text, literal = rendered.text, rendered.literal
    tokens = _pieces(tokenizer, text, [rendered.opening], literal)
    edges = sorted({edge for span in rendered.spans for edge in span if 0 < edge < len(text)})
    inside = {edge for token in tokens for edge in range(token.start + 1, token.stop)}
    crossed = [edge for edge in edges if edge in inside]
    if not crossed:
        return tokens
    cut = _pieces(tokenizer, text, [rendered.opening, *crossed], literal)
    if _text(tokenizer, cut) != _text(tokenizer, tokens):
        around = [text[max(0, edge - 20) : edge + 20] for edge in crossed]
        raise ValueError(
            f"a token must not reach over the edge of an answer, got one in {around}, and this "
            f"tokenizer cannot be cut there; end the prompt with a newline or a special token"
        )
    return cut


def _text(tokenizer: Any, tokens: Sequence[Token]) -> str:
    ids = [token.id for token in tokens]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _pieces(
    tokenizer: Any, text: str, cuts: Sequence[int], literal: Sequence[tuple[int, int]]
) -> list[Token]:
    bounds = sorted({0, len(text), *cuts, *(edge for span in literal for edge in span)})
    parts = list(pairwise(bounds))
    encoding = tokenizer(
        [text[a:b] for a, b in parts], add_special_tokens=False, return_offsets_mapping=True
    )
    found = list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))
    for number, (start, stop) in enumerate(parts):
        if any(a <= start and stop <= b for a, b in literal):
            letters = _letters(tokenizer, len(tokenizer)).encode(text[start:stop])
            found[number] = (letters.ids, letters.offsets)
    greedy = _greedy_tokens(tokenizer, len(tokenizer))
    tokens = list[Token]()
    for (base, _), (ids, offsets) in zip(parts, found, strict=True):
        done = base
        for token, (start, stop) in zip(ids, offsets, strict=True):
            # Some tokenizers leave spaces out of their offsets. They are counted to the next token.
            start, stop = min(base + start, done), base + stop
            done = max(done, stop)
            if token in greedy:  # the offsets of some added tokens include the spaces around them
                start = text.index(greedy[token], start, stop)
                stop = start + len(greedy[token])
            tokens.append(Token(token, start, stop))
    return tokens


@lru_cache(maxsize=8)
def _letters(tokenizer: Any, size: int) -> Any:
    """A copy of the tokenizer without added tokens, which splits a control token into ordinary tokens."""
    from tokenizers import Tokenizer

    original = tokenizer.backend_tokenizer
    copy = Tokenizer(original.model)
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(original, step) is not None:
            setattr(copy, step, getattr(original, step))
    return copy


@lru_cache(maxsize=8)
def _greedy_tokens(tokenizer: Any, size: int) -> dict[int, str]:
    """Added tokens that absorb adjacent spaces. ``size`` makes the cache miss after tokens were added."""
    added = tokenizer.added_tokens_decoder.items()
    return {i: str(t) for i, t in added if t.lstrip or t.rstrip}


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any, size: int) -> frozenset[str]:
    added = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return frozenset({*added, *tokenizer.all_special_tokens})


def control_tokens(template: Template, tokenizer: Any, tags: Sequence[str]) -> set[str]:
    """Tokens that a message must not contain: markers of the template and the tokenizer, except ``tags``."""
    special = _special_tokens(tokenizer, len(tokenizer))
    return {*template.special_tokens, *template.stop, *special} - {*tags, ""}


def stop_ids(template: Template, tokenizer: Any) -> list[int]:
    """The ids that end an answer: the template's stop strings and the end-of-sequence token.

    Raises:
        ValueError: none of them is a single id, so that generation would not stop.
    """
    pieces = [tokenizer(stop, add_special_tokens=False)["input_ids"] for stop in template.stop]
    ids = [piece[0] for piece in pieces if len(piece) == 1]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise ValueError(
            f"one of the stop strings {list(template.stop)} must be one id of the tokenizer; call "
            f"llm.add_tokens(template.special_tokens) first"
        )
    return sorted(set(ids))
