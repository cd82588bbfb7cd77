"""Rows of a JSON file, an array or one row a line, parsed where they are asked for."""

import json
from array import array
from pathlib import Path
from typing import Any


class JsonRows:
    """``rows[i]`` is row ``i`` of the file.

    Of JSON lines only the places are held, and each row is read from the file; of an array the text
    and the places. Neither grows where data workers share it, as a list of parsed rows would.

    Raises:
        ValueError: no such file, nothing in it, or no JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"path must be a JSON or JSONL file, got {str(path)!r}, which is no file"
            )
        with self.path.open("rb") as file:
            is_array = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        self._text = ""
        self._starts, self._stops = array("q"), array("q")
        if is_array:
            self._find_elements()
        else:
            self._find_lines()
        if not self._starts:
            raise ValueError(f"{path} holds no conversations")
        self[0]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        start, stop = self._starts[index], self._stops[index]
        if self._text:
            return json.loads(self._text[start:stop])
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(stop - start)
        try:
            return json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{self.path} must hold a JSON array or JSON lines, row {index} is neither: {error}"
            ) from error

    def _find_lines(self) -> None:
        with self.path.open("rb") as file:
            start = len(b"\xef\xbb\xbf") if file.read(3) == b"\xef\xbb\xbf" else 0
            file.seek(start)
            for line in file:
                if not line.isspace():
                    self._add(start, start + len(line))
                start += len(line)

    def _find_elements(self) -> None:
        text = self.path.read_text(encoding="utf-8-sig")
        decoder, place = json.JSONDecoder(), text.index("[") + 1
        try:
            while text[place := _space(text, place)] != "]":
                _, stop = decoder.raw_decode(text, place)
                self._add(place, stop)
                place = _space(text, stop)
                if text[place] == ",":
                    place += 1
                elif text[place] != "]":
                    raise ValueError(f"a comma or ] must stand at character {place}")
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{self.path} must hold a JSON array or JSON lines: {error} after "
                f"{len(self._starts)} rows"
            ) from error
        self._text = text

    def _add(self, start: int, stop: int) -> None:
        self._starts.append(start)
        self._stops.append(stop)


def _space(text: str, place: int) -> int:
    """The first character from ``place`` on that is no white space."""
    while text[place] in " \t\r\n":
        place += 1
    return place
