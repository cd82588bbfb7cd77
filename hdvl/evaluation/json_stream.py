"""The items of a large JSON file, one after the other, without the whole of it in memory."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hdvl.evaluation.encoding import opened_text

CHUNK = 1 << 20
"""Characters that are read at once."""
SPACE = " \t\n\r"
SPACES = re.compile(r"[ \t\n\r]*")
AFTER = f",:]}}{SPACE}"
"""Characters that may follow a value."""
UNSURE = 16
"""Characters at the end of the text read so far in which a fault may be that of a literal cut short."""


def reason_of(error: json.JSONDecodeError) -> str:
    """What is wrong, without the place."""
    return error.msg.removesuffix(" starting at")


def unreadable(error: ValueError | RecursionError) -> str:
    """What is wrong with a value that JSON allows but that is not read."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return f"has a number of more than {sys.get_int_max_str_digits()} digits"


class JsonStream:
    """Reads one value after the other from an open file of JSON.

    Args:
        path: named in errors.
        file: the file, open as text.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self.file = path, file
        self.text, self.place, self.ended = "", 0, False
        self.lines, self.column = 0, 0  # those before ``text``
        self.decoder = json.JSONDecoder()

    def more(self) -> None:
        """Read the next part, and drop the text that was parsed."""
        found = self.file.read(max(CHUNK, len(self.text) - self.place))
        self.lines, self.column = self._position(self.place)
        self.text, self.place = self.text[self.place :] + found, 0
        self.ended = not found

    def _position(self, place: int) -> tuple[int, int]:
        """Line and column of a place of ``text``, both from 0."""
        lines = self.text.count("\n", 0, place)
        column = place - 1 - self.text.rfind("\n", 0, place) if lines else self.column + place
        return self.lines + lines, column

    def fault(self, said: str, place: int) -> ValueError:
        """The error for a file that is no JSON at a place of ``text``."""
        line, column = self._position(place)
        return ValueError(
            f"{self.path} must be JSON, line {line + 1}, column {column + 1} is not: {said}; restore the "
            "file"
        )

    def mark(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            self.place = self._after_spaces(self.place)
            if self.place < len(self.text) or self.ended:
                return self.text[self.place : self.place + 1]
            self.more()

    def _after_spaces(self, place: int) -> int:
        found = SPACES.match(self.text, place)
        assert found is not None  # no space is a match too
        return found.end()

    def take(self, expected: str) -> str:
        """Pass the next character, which must be one of ``expected``."""
        found = self.mark()
        if not found or found not in expected:
            got = repr(found) if found else "the end of the file"
            raise self.fault(f"expected {' or '.join(expected)}, got {got}", self.place)
        self.place += 1
        return found

    def end(self) -> None:
        """Check that nothing follows."""
        found = self.mark()
        if found:
            raise self.fault(f"expected the end of the file, got {found!r}", self.place)

    def value(self) -> Any:
        """The next value, whole."""
        if not self.mark():
            raise self.fault("expected a value, got the end of the file", self.place)
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.ended or self._is_broken(error):
                    raise self.fault(reason_of(error), error.pos) from None
            except (ValueError, RecursionError) as error:  # an endless number, or very deep nesting
                said = f"the value from there on {unreadable(error)}"
                raise self.fault(said, self.place) from None
            else:
                # A number at the end of the text read so far may continue.
                if self.ended or (end < len(self.text) and self.text[end] in AFTER):
                    self.place = end
                    return found
            self.more()

    def _is_broken(self, error: json.JSONDecodeError) -> bool:
        """Whether a value that was not read whole is broken, whatever follows."""
        unended = error.msg.startswith("Unterminated string")
        return not unended and error.pos < len(self.text) - UNSURE

    def items(self) -> Iterator[Any]:
        """The values of the list that is next."""
        self.take("[")
        if self.mark() == "]":
            self.take("]")
            return
        while True:
            yield from self._followed()
            yield self.value()
            if self.take(",]") == "]":
                return

    def _followed(self) -> Iterator[Any]:
        """The values from here on as long as the text read so far holds them and the comma after them."""
        decode = self.decoder.raw_decode
        while True:
            self.place = self._after_spaces(self.place)
            try:
                found, end = decode(self.text, self.place)
            except (ValueError, RecursionError):  # ``value`` says which
                return
            if self.text[end : end + 1] != ",":
                return
            self.place = end + 1
            yield found

    def keys(self) -> Iterator[str]:
        """The keys of the mapping that is next. After each, the caller takes its value."""
        self.take("{")
        if self.mark() == "}":
            self.take("}")
            return
        while True:
            if self.mark() != '"':
                self.take('"')
            key: str = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return


def json_items(path: Path, under: str | None = None) -> Iterator[Any]:
    """The values of the list in a JSON file, or of the list under a key of it.

    Raises:
        ValueError: the file is no JSON, or has no such list.
    """
    with opened_text(path) as file:
        stream = JsonStream(path, file)
        if under is None:
            yield from _list(stream)
        else:
            found = False
            if stream.mark() == "{":
                for key in stream.keys():
                    if key == under:
                        found = True
                        yield from _list(stream)
                    else:
                        stream.value()
            if not found:
                raise ValueError(f"{path} must have the key {under!r}, it has none; check the file")
        stream.end()


def _list(stream: JsonStream) -> Iterator[Any]:
    """The values of the list that must be next."""
    if stream.mark() != "[":
        kind = type(stream.value()).__name__
        raise ValueError(f"{stream.path} must hold a list of rows, got {kind}")
    yield from stream.items()


def json_pairs(path: Path) -> Iterator[tuple[str, Any]]:
    """The keys and values of the mapping in a JSON file."""
    with opened_text(path) as file:
        stream = JsonStream(path, file)
        for key in stream.keys():
            yield key, stream.value()
        stream.end()


def holds_mapping(path: Path) -> bool:
    """Whether a JSON file holds a mapping."""
    with opened_text(path) as file:
        return JsonStream(path, file).mark() == "{"
