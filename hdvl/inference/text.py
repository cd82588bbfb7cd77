"""From new ids to an answer's text: control tokens out, cut at the first stop string."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hdvl.protocols import Template
from hdvl.templates.tokens import control_tokens

UNFINISHED = "�"
"""What a decoder writes for the first bytes of a character whose rest is yet to come."""


@dataclass(frozen=True)
class Reader:
    """Reads ids of one tokenizer as text.

    Attributes:
        tokenizer: the model's.
        end_ids: ids that end an answer: generation stops at them.
        silent_ids: ids that are never text: control tokens, the end markers among them.
        stops: stop strings of several tokens, looked for in the text.
    """

    tokenizer: Any
    end_ids: tuple[int, ...]
    silent_ids: frozenset[int]
    stops: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any, template: Template, stop: Sequence[str] = ()) -> "Reader":
        """The reader for answers written by ``template``, ended also by the strings ``stop``."""
        strings = tuple(dict.fromkeys((*template.stop, *stop)))
        if "" in strings:
            raise ValueError("stop strings must not be empty")
        ids = {string: _one_id(tokenizer, string) for string in strings}
        ends = [found for found in ids.values() if found is not None]
        if tokenizer.eos_token_id is not None:
            ends.append(int(tokenizer.eos_token_id))
        control = control_tokens(template, tokenizer, template.boxes.tokens)
        silent = {found for sign in control if (found := _one_id(tokenizer, sign)) is not None}
        return cls(
            tokenizer=tokenizer,
            end_ids=tuple(dict.fromkeys(ends)),
            silent_ids=frozenset({*silent, *ends}),
            stops=tuple(string for string, found in ids.items() if found is None),
        )

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """``ids`` to the first end id, that one included; what follows in a batch is padding."""
        for place, found in enumerate(ids):
            if found in self.end_ids:
                return list(ids[: place + 1])
        return list(ids)

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether the text holds a stop string: nothing after it belongs to the answer."""
        text = self._decode(ids)
        return any(stop in text for stop in self.stops)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a finished answer."""
        return self._cut(self._decode(ids))

    def settled(self, ids: Sequence[int]) -> str:
        """The part of an unfinished answer's text that no further id can change."""
        text = self._decode(ids).rstrip(UNFINISHED)
        cut = self._cut(text)
        if cut != text:
            return cut
        held = max((_overlap(text, stop) for stop in self.stops), default=0)
        return text[: len(text) - held]

    def _decode(self, ids: Sequence[int]) -> str:
        said = [found for found in self.until_end(ids) if found not in self.silent_ids]
        text: str = self.tokenizer.decode(said, clean_up_tokenization_spaces=False)
        return text

    def _cut(self, text: str) -> str:
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


def _one_id(tokenizer: Any, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 else None


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that may be the beginning of ``stop``."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
