"""Decoding of new ids to the text of an answer, without control tokens, up to the first stop string."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hdvl.decoding.sampling import stop_strings
from hdvl.protocols import Template
from hdvl.templates.tokens import control_tokens

UNFINISHED = "�"
"""The character that a decoder returns for an incomplete character."""

BYTES = 4
"""Most bytes of a character, each of which may be a token."""

MARGIN = 32
"""Tokens before a stop string that are decoded with it: to some decoders the first ones are special."""


@dataclass(frozen=True)
class Detokenizer:
    """Decodes the ids of one tokenizer.

    Attributes:
        tokenizer: the model's.
        end_ids: ids that end an answer: generation stops at them.
        silent_ids: ids that are never text: control tokens, the end markers among them.
        stops: strings that end an answer wherever they occur in its text.
    """

    tokenizer: Any
    end_ids: tuple[int, ...]
    silent_ids: frozenset[int]
    stops: tuple[str, ...]

    @classmethod
    def of(
        cls, tokenizer: Any, template: Template, stop: str | Sequence[str] = ()
    ) -> "Detokenizer":
        """Return the detokenizer of answers of ``template``, which also end at the strings ``stop``."""
        strings = tuple(dict.fromkeys((*template.stop, *stop_strings(stop))))
        markers = _Markers(tokenizer, template)
        ends = [found for string in strings if (found := markers.id_of(string)) is not None]
        if tokenizer.eos_token_id is not None:
            ends.append(int(tokenizer.eos_token_id))
        control = control_tokens(template, tokenizer, template.boxes.tokens)
        silent = {found for sign in control if (found := markers.id_of(sign)) is not None}
        return cls(
            tokenizer=tokenizer,
            end_ids=tuple(dict.fromkeys(ends)),
            silent_ids=frozenset({*silent, *ends}),
            stops=strings,
        )

    def own_ids(self, ids: Sequence[int]) -> list[int]:
        """Return ``ids`` up to the one that ended the answer, included; in a batch, padding follows it."""
        return own_ids(ids, self.end_ids, self.stopped)

    def stopped(self, ids: Sequence[int]) -> bool:
        """Return whether the text contains a stop string, at which the answer ends."""
        text = self.decode(ids)
        return any(stop in text for stop in self.stops)

    def just_stopped(self, ids: Sequence[int]) -> bool:
        """Like :meth:`stopped`, if no prefix of ``ids`` is stopped; the cost does not grow with the length.

        Only the end of the text is decoded. If this may differ from the end of the whole text, because it
        begins within a character or is short, the whole text is decoded.
        """
        longest = max(map(len, self.stops), default=0)
        visible_ids = [found for found in ids if found not in self.silent_ids]
        end = visible_ids[-(BYTES * longest + MARGIN) :]
        if len(end) < len(visible_ids):
            text = self.decode(end)
            if UNFINISHED not in text and len(text) >= longest + MARGIN // BYTES:
                return any(stop in text[MARGIN // BYTES :] for stop in self.stops)
        return self.stopped(visible_ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a finished answer, up to the first stop string."""
        return self._cut(self.decode(ids))

    def stable_prefix(self, ids: Sequence[int]) -> str:
        """Return the part of an unfinished answer's text that no further id can change.

        A decoder for byte tokens decodes a run of bytes together, and rejects the whole run if a further
        byte makes it invalid. Therefore only text is returned that is decoded equally if another id follows.
        """
        text = self.unchanging(ids, self.decode(ids))
        cut = self._cut(text)
        if cut != text:
            return cut
        held = max((_overlap(text, stop) for stop in self.stops), default=0)
        return text[: len(text) - held]

    def unchanging(self, ids: Sequence[int], text: str) -> str:
        """Return the beginning of ``text``, the text of ``ids``, that no following id changes."""
        for probe in _probes(self.tokenizer, len(self.tokenizer)):
            text = _common_prefix(text, self.decode([*ids, probe]))
        return text.rstrip(UNFINISHED)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without end marker and control tokens."""
        visible_ids = [found for found in ids if found not in self.silent_ids]
        text: str = self.tokenizer.decode(visible_ids, clean_up_tokenization_spaces=False)
        return text

    def _cut(self, text: str) -> str:
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


def own_ids(
    ids: Sequence[int], end_ids: Sequence[int], ended: Callable[[list[int]], bool] | None = None
) -> list[int]:
    """Return ``ids`` up to the first of ``end_ids``, or the first after which ``ended`` is true, included.

    ``ended`` is called with prefixes of ``ids``; padding must not change its result.
    """
    length = next((place for place, found in enumerate(ids, 1) if found in end_ids), len(ids))
    own = list(ids[:length])
    if ended is None or not ended(own):
        return own
    last = bisect_left(range(len(own)), True, key=lambda place: ended(own[: place + 1]))
    return own[: last + 1]


class TextStream:
    """The text of an answer that is being generated. For each new id only the end of the text is decoded.

    Args:
        detokenizer: of the answer.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._taken = 0
        self._window: list[int] = []
        self._before = ""
        self._skipped = 0
        self._ended = False
        self._text = ""

    def extend(self, ids: Sequence[int]) -> str:
        """Return the part of the text that no further id can change.

        Args:
            ids: all ids so far; those of the last call are at their beginning.
        """
        detokenizer = self._detokenizer
        new = [found for found in ids[self._taken :] if found not in detokenizer.silent_ids]
        self._taken = len(ids)
        if not new or self._ended:
            return self._text
        self._window += new
        raw = detokenizer.decode(self._window)
        stable = detokenizer.unchanging(self._window, raw)
        text = self._before + stable[self._skipped :]
        longest = max(map(len, detokenizer.stops), default=0)
        start = max(0, len(self._text) - longest)
        places = [place for stop in detokenizer.stops if (place := text.find(stop, start)) >= 0]
        if places:
            self._text, self._ended = text[: min(places)], True
            return self._text
        held = max((_overlap(text, stop) for stop in detokenizer.stops), default=0)
        self._text = max(self._text, text[: len(text) - held], key=len)
        if len(self._window) > 4 * MARGIN:
            self._shorten(raw, len(stable))
        return self._text

    def _shorten(self, raw: str, stable: int) -> None:
        """Drop the beginning of the window if its end decodes to the same text without it."""
        rest = self._window[-MARGIN:]
        context, tail = (self._detokenizer.decode(part) for part in (rest[: MARGIN // 2], rest))
        kept = len(raw) - (len(tail) - len(context))
        if (
            UNFINISHED not in context
            and tail.startswith(context)
            and self._skipped <= kept <= stable
            and raw.endswith(tail[len(context) :])
        ):
            self._before += raw[self._skipped : kept]
            self._window, self._skipped = rest, len(context)


class _Markers:
    """The ids of tokens that are not text: added tokens, and those of the template."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self.tokenizer, self.special = tokenizer, frozenset(template.special_tokens)
        self.added = _added_tokens(tokenizer, len(tokenizer))

    def id_of(self, string: str) -> int | None:
        """Return the id of ``string`` if it is a marker.

        An ordinary token that is spelled like a stop string is not a marker, because the string may also
        occur within another token or across several.
        """
        if string in self.added:
            return self.added[string]
        if string not in self.special:
            return None
        ids = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 else None


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: Any, size: int) -> dict[str, int]:
    """Ids of added tokens by their strings. ``size`` makes room for tokens added later."""
    return {str(token): int(found) for found, token in tokenizer.added_tokens_decoder.items()}


@lru_cache(maxsize=8)
def _probes(tokenizer: Any, size: int) -> tuple[int, ...]:
    """Return ids that may change the text of earlier ids: an invalid next byte, if tokens of single bytes
    exist, and a full stop, before which some decoders remove spaces."""
    names = [f"<0x{byte:02X}>" for byte in range(0xFF, 0x7F, -1)]
    numbers = tokenizer.convert_tokens_to_ids(names)
    unknown = tokenizer.unk_token_id
    found = [number for number in numbers if number is not None and number != unknown][:1]
    found += tokenizer(".", add_special_tokens=False)["input_ids"][-1:]
    return tuple(dict.fromkeys(int(number) for number in found))


def _common_prefix(one: str, other: str) -> str:
    if other.startswith(one):
        return one
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))]


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at the end of ``text`` that may be the beginning of ``stop``."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
