"""The items of a large JSON file, one after the other, without the whole of it in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
"""Characters that are read at once."""
SPACE = " \t\n\r"
SPACES = re.compile(r"[ \t\n\r]*")
AFTER = f",:]}}{SPACE}"
"""Characters that may follow a value."""


class JsonStream:
    """Reads one value after the other from an open file of JSON.

    Args:
        path: named in errors.
        file: the file, open as text.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self.file = path, file
        self.text, self.place, self.ended = "", 0, False
        self.decoder = json.JSONDecoder()

    def more(self) -> None:
        """Read the next part, and drop the text that was parsed."""
        found = self.file.read(max(CHUNK, len(self.text) - self.place))
        self.text, self.place = self.text[self.place :] + found, 0
        self.ended = not found

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
            raise ValueError(
                f"{self.path} must be JSON, it is not: expected one of {expected}, got {found!r}; restore "
                "the file"
            )
        self.place += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.mark()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise ValueError(
                        f"{self.path} must be JSON, it is not: {error}; restore the file"
                    ) from None
            else:
                # A number at the end of the text read so far may continue.
                if self.ended or (end < len(self.text) and self.text[end] in AFTER):
                    self.place = end
                    return found
            self.more()

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
            except json.JSONDecodeError:
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
            key = self.value()
            self.take(":")
            yield str(key)
            if self.take(",}") == "}":
                return


def json_items(path: Path, under: str | None = None) -> Iterator[Any]:
    """The values of the list in a JSON file, or of the list under a key of it.

    Raises:
        ValueError: the file is no JSON, or has no such list.
    """
    with path.open(encoding="utf-8-sig") as file:
        stream = JsonStream(path, file)
        if under is None:
            if stream.mark() != "[":
                kind = type(stream.value()).__name__
                raise ValueError(f"{path} must hold a list of rows, got {kind}")
            yield from stream.items()
            return
        found = False
        if stream.mark() == "{":
            for key in stream.keys():
                if key != under:
                    stream.value()
                    continue
                found = True
                if stream.mark() != "[":
                    kind = type(stream.value()).__name__
                    raise ValueError(f"{path} must hold a list of rows, got {kind}")
                yield from stream.items()
        if not found:
            raise ValueError(f"{path} must have the key {under!r}, it has none; check the file")


def json_pairs(path: Path) -> Iterator[tuple[str, Any]]:
    """The keys and values of the mapping in a JSON file."""
    with path.open(encoding="utf-8-sig") as file:
        stream = JsonStream(path, file)
        for key in stream.keys():
            yield key, stream.value()


def holds_mapping(path: Path) -> bool:
    """Whether a JSON file holds a mapping."""
    with path.open(encoding="utf-8-sig") as file:
        return JsonStream(path, file).mark() == "{"
