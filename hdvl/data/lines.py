"""Reads single rows of a JSON file, which is an array or has one row per line."""

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER = {
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_SPACE = re.compile(r"[ \t\r\n]*+")
# A number or a word; and brackets outside of strings.
_SCALAR = re.compile(r"[^\s,\]]+")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL)
_LOOKED_AT = 16
"""The number of rows that are parsed when the file is opened. If none is JSON, an error is raised."""


class JsonRows:
    """``rows[i]`` is row ``i`` of the file.

    For JSON lines only the positions of the rows are kept in memory, and each row is read from the file. For
    an array the text is kept too. Unlike a list of parsed rows, neither is copied by data workers when they
    access it.

    A row that cannot be parsed raises an error when it is accessed. If the positions of the rows cannot be
    determined, for example because of text after an array, opening the file raises an error.

    Raises:
        ValueError: there is no such file, or it is empty, no JSON, or not UTF-8.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"path must be a JSON or JSONL file, got {str(path)!r}, which is no file"
            )
        with self.path.open("rb") as file:
            head = file.read(256)
        kind = next((kind for mark, kind in _OTHER.items() if head.startswith(mark)), None)
        if kind is not None:
            raise ValueError(f"{path} must be JSON in UTF-8, it is {kind}; convert it first")
        self._text = ""
        self._starts, self._stops = array("q"), array("q")
        if head.removeprefix(_UTF8_MARK).lstrip().startswith(b"["):
            self._find_elements()
        else:
            self._find_lines()
        if not self._starts:
            raise ValueError(f"{path} holds no conversations")
        self._check_some()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        start, stop = self._starts[index], self._stops[index]
        text = self._text[start:stop] or self._line(start, stop, index)
        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError(f"{self.path}: row {index} is nested too deeply to be read") from error
        except ValueError as error:
            raise ValueError(
                f"{self.path} must hold a JSON array or JSON lines, row {index} is neither: {error}"
            ) from error

    def _line(self, start: int, stop: int, index: int) -> str:
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(stop - start)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(self._no_utf8(line, error.start, start, index)) from error

    def _check_some(self) -> None:
        first: ValueError | None = None
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                self[index]
                return
            except ValueError as error:
                first = first or error
        assert first is not None
        raise first

    def _find_lines(self) -> None:
        with self.path.open("rb") as file:
            start = len(_UTF8_MARK) if file.read(3) == _UTF8_MARK else 0
            file.seek(start)
            for line in file:
                if not line.isspace():
                    self._add(start, start + len(line))
                start += len(line)

    def _find_elements(self) -> None:
        data = self.path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            # The offset of the error does not count a byte order mark.
            place = error.start + len(_UTF8_MARK) * data.startswith(_UTF8_MARK)
            row = _whole_elements(data[:place].decode("utf-8-sig"))
            raise ValueError(self._no_utf8(data, place, 0, row)) from error
        try:
            for start, stop in _elements(text):
                self._add(start, stop)
        except ValueError as error:
            raise ValueError(
                f"{self.path} must hold a JSON array or JSON lines, after {len(self._starts)} rows it "
                f"does not: {error}"
            ) from error
        self._text = text

    def _no_utf8(self, data: bytes, place: int, offset: int, row: int) -> str:
        return (
            f"{self.path} must be UTF-8, byte {offset + place} in row {row} is not: "
            f"0x{data[place]:02x} in {data[max(0, place - 20) : place + 20]!r}; convert it first"
        )

    def _add(self, start: int, stop: int) -> None:
        self._starts.append(start)
        self._stops.append(stop)


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of each element of the JSON array ``text``.

    Raises:
        ValueError: it is no array, or text follows the array; the message has the position.
    """
    decoder, place = json.JSONDecoder(), _after_space(text, text.index("[") + 1)
    while text[place : place + 1] != "]":
        if place == len(text):
            raise json.JSONDecodeError("the array has no end", text, place)
        stop = _end_of_element(decoder, text, place)
        yield place, stop
        place = _after_space(text, stop)
        if text[place : place + 1] == ",":
            place = _after_space(text, place + 1)
        elif place < len(text) and text[place] != "]":
            raise json.JSONDecodeError("a comma or ] must follow an element", text, place)
    place = _after_space(text, place + 1)
    if place < len(text):
        raise json.JSONDecodeError(
            f"nothing may follow the array, got {text[place : place + 40]!r}", text, place
        )


def _end_of_element(decoder: json.JSONDecoder, text: str, place: int) -> int:
    """The end of the element at ``place``, also if it is valid JSON that Python cannot parse."""
    try:
        return decoder.raw_decode(text, place)[1]
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):  # nested too deeply, a number of too many digits
        if text[place] not in "[{":
            scalar = _SCALAR.match(text, place)
            return scalar.end() if scalar else place
        depth = 0
        for match in _BRACKETS.finditer(text, place):
            depth += (match["open"] is not None) - (match["close"] is not None)
            if depth == 0:
                return match.end()
        raise json.JSONDecodeError("the array has no end", text, len(text)) from None


def _whole_elements(text: str) -> int:
    """The number of complete elements in ``text``, which ends within an element."""
    count = 0
    try:
        for _ in _elements(text):
            count += 1
    except ValueError:
        pass
    return count


def _after_space(text: str, place: int) -> int:
    """The position of the first character from ``place`` on that is no white space."""
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()
