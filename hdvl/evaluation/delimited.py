"""Records of TSV and CSV files, whose cells are text and may be quoted."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images in cells are longer than the default

BOM = b"\xef\xbb\xbf"
RETURN = "\udc0d"
"""Stands for a carriage return, at which the module would end the row; no text in UTF-8 has it."""
NAMES = {"\t": "tab", ",": "comma"}


@dataclass(frozen=True)
class Record:
    """One row of a table: its first line, counted from 1, its first and its last byte, and its cells."""

    line: int
    start: int
    end: int
    cells: list[str]


def table_records(path: Path, delimiter: str) -> Iterator[Record]:
    """The records of a table, the header first; those without any text are passed over.

    Raises:
        ValueError: a record does not have the cells that the header names, its quotes are open or closed in
            the middle of a cell of a later line, or the file is not UTF-8.
    """
    header: list[str] | None = None
    for line, start, raw in _raw_records(path, delimiter):
        try:
            cells = cells_of(raw, delimiter)
        except csv.Error as error:
            raise ValueError(
                f"line {line} of {path} must be a row of a table, it is not: {error}; put each cell with "
                "quotes or line breaks between quotes, and double the quotes inside of it"
            ) from None
        if not any(cells):
            continue
        if header is None:
            header = cells
            refuse_repeated(path, header)
        elif len(cells) != len(header):
            what = f"a {NAMES[delimiter]}" if len(cells) > len(header) else "a line break"
            raise ValueError(
                f"line {line} of {path} must have {len(header)} cells as the first line, got {len(cells)}; "
                f"put a cell with {what} between quotes, and close these"
            )
        yield Record(line, start, start + len(raw), cells)


def refuse_repeated(path: Path, header: Sequence[str]) -> None:
    """Raise ``ValueError`` if two columns have the same name."""
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise ValueError(f"columns of {path} must have different names, got {twice[0]!r} twice")


def cells_of(record: bytes, delimiter: str) -> list[str]:
    """The cells of a record.

    Raises:
        csv.Error: the record is no row. Text after the closing quote of a cell belongs to the cell, as other
            programs read it, if the record is one line; otherwise the quote was to close another cell.
    """
    text = record.decode("utf-8-sig").rstrip("\r\n").replace("\r", RETURN)
    several = "\n" in text
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=several))
    if len(rows) > 1:
        raise csv.Error("a line break outside of quotes")
    return [cell.replace(RETURN, "\r") for cell in rows[0]] if rows else []


def _raw_records(path: Path, delimiter: str) -> Iterator[tuple[int, int, bytes]]:
    """(first line, start, bytes) of each record of a table, whose quoted cells may have line breaks."""
    with path.open("rb") as file:
        start, first, parts, inside = 0, 1, list[bytes](), False
        for number, line in enumerate(file, 1):
            parts.append(line)
            inside = _inside_quotes(line, delimiter.encode(), inside)
            if not inside:
                record = b"".join(parts)
                yield first, start, record
                start, first, parts = start + len(record), number + 1, []
        if parts:
            raise ValueError(
                f"{path} ends inside of a quoted cell of the row in line {first}; close its quotes"
            )


def _inside_quotes(line: bytes, delimiter: bytes, inside: bool) -> bool:
    """Whether a quoted cell is open after a line, given whether one is open before it.

    Only a quote at the start of a cell opens it; one in the middle, as in 5" pipe, is a character.
    """
    if b'"' not in line:
        return inside
    for cell in line.split(delimiter):
        if inside or cell.removeprefix(BOM).startswith(b'"'):
            # The second of two quotes closes the cell, or stands for a quote with the third.
            inside ^= cell.count(b'"') % 2 == 1
    return inside
