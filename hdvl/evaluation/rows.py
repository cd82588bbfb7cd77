"""Rows of JSON, JSONL, TSV, CSV, XLSX and parquet files, as the benchmarks are published.

Cells of a TSV are kept as text without conversion: "None", "NA" and "1.0" stay these texts, and an empty
cell is an empty text. The column ``image`` of a TSV may hold a large image in each row, so it is not kept in
memory: a row has a list of :class:`StoredImage` in its place, which read their line again when they are
needed.
"""

import ast
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from hdvl.evaluation.json_stream import json_items
from hdvl.evaluation.samples import StoredImage, digest, from_base64

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images in cells are longer than the default

IMAGE = "image"
BOM = b"\xef\xbb\xbf"
WHOLE = re.compile(r"\s*([+-]?\d+)(?:\.0*)?\s*")
LONGEST_REFERENCE = (
    64  # characters; a shorter cell names the row whose image is meant, as in VLMEvalKit
)


def read_rows(path: Path, under: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file.

    Args:
        path: the file; its suffix determines the format.
        under: key of a JSON file whose value is the list of rows.

    Raises:
        ValueError: the suffix is unknown, or the content of the file does not match its suffix.
    """
    readers = {
        ".json": lambda: _json_rows(path, under),
        ".jsonl": lambda: jsonl_rows(path),
        ".tsv": lambda: _tsv_rows(path),
        ".csv": lambda: _csv_rows(path),
        ".xlsx": lambda: _xlsx_rows(path),
        ".parquet": lambda: _parquet_rows(path),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must end with one of {', '.join(readers)}, got {path.suffix!r}")
    return _checked(path, readers[path.suffix.lower()]())


def _checked(path: Path, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, with an error that names the file if it is not of the form that its suffix says."""
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, it is not: {error}; convert it") from None
    except BadZipFile as error:
        raise ValueError(f"{path} must be a workbook of Excel, it is not: {error}") from None


def whole_number(text: str) -> str:
    """A number that a table has as " 12" or "12.0", as "12"; any other text as it is."""
    found = WHOLE.fullmatch(text)
    return found[1] if found else text


def read_plain(path: Path) -> Any:
    """The value of a JSON file; benchmarks may be larger than the files that :mod:`hdvl.files` bounds."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, it is not: {error}; download it again") from None


def _json_rows(path: Path, under: str | None) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(json_items(path, under)):
        yield row if type(row) is dict else _mapping(row, path, number)


def jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {path} must be JSON, it is not: {error}"
                ) from None
            yield _mapping(row, path, number)


def _mapping(row: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"row {number} of {path} must be a mapping of fields, got {type(row).__name__}"
        )
    return dict(row)


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(start, end, bytes) of each record of a table with quoted cells, which may contain line breaks."""
    with path.open("rb") as file:
        start, parts, inside = 0, list[bytes](), False
        for line in file:
            parts.append(line)
            inside = _inside_quotes(line, inside)
            if not inside:
                record = b"".join(parts)
                yield start, start + len(record), record
                start += len(record)
                parts = []
        if parts:
            raise ValueError(f"{path} ends inside of a quoted cell; close its quotes")


def _inside_quotes(line: bytes, inside: bool) -> bool:
    """Whether a quoted cell is open after a line, given whether one is open before it.

    Only a quote at the start of a cell opens it; one in the middle, as in 5" pipe, is a character.
    """
    if b'"' not in line:
        return inside
    for cell in line.split(b"\t"):
        if inside or cell.removeprefix(BOM).startswith(b'"'):
            # The second of two quotes closes the cell, or stands for a quote with the third.
            inside ^= cell.count(b'"') % 2 == 1
    return inside


def _cells(record: bytes, delimiter: str = "\t") -> list[str]:
    text = record.decode("utf-8-sig").rstrip("\r\n")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def _tsv_rows(path: Path) -> Iterator[dict[str, Any]]:
    header: list[str] | None = None
    places: dict[str, tuple[int, int, str]] = {}
    for number, (start, end, record) in enumerate(_records(path)):
        if not record.strip():
            continue
        cells = _cells(record)
        if header is None:
            header = cells
            refuse_repeated(path, header)
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"record {number} of {path} must have {len(header)} cells as the first line, got {len(cells)}"
            )
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        if row.get(IMAGE):
            place = (start, end, digest(row[IMAGE])[:16])
            if len(row[IMAGE]) <= LONGEST_REFERENCE and row[IMAGE] in places:
                place = places[row[IMAGE]]
            index = whole_number(str(row.get("index", number)))
            count, column = len(_listed(row[IMAGE])), header.index(IMAGE)
            names = [f"{path.name}:{index}" + f":{one}" * (count > 1) for one in range(count)]
            row[IMAGE] = [_stored(path, place, column, name, one) for one, name in enumerate(names)]
            places[index] = place
        yield row


def refuse_repeated(path: Path, header: Sequence[str]) -> None:
    """Raise ``ValueError`` if two columns have the same name."""
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise ValueError(f"columns of {path} must have different names, got {twice[0]!r} twice")


def _stored(
    path: Path, place: tuple[int, int, str], column: int, name: str, number: int
) -> StoredImage:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(place[0])
            cell = _cells(file.read(place[1] - place[0]))[column]
        return from_base64(_listed(cell)[number], name)

    return StoredImage(name, read, place[2])


def _listed(cell: str) -> list[str]:
    """The texts of a cell that holds one text, or a list of them as Python or JSON writes it."""
    if not cell.startswith("["):
        return [cell]
    found = ast.literal_eval(cell)
    return [str(one) for one in found]


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        refuse_repeated(path, rows.fieldnames or ())
        yield from rows


def _xlsx_rows(path: Path) -> Iterator[dict[str, Any]]:
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    try:
        rows = book.active.iter_rows(values_only=True)
        header = [str(cell) for cell in next(rows, ())]
        refuse_repeated(path, [name for name in header if name != "None"])
        for cells in rows:
            if any(cell is not None for cell in cells):
                yield dict(zip(header, cells, strict=True))
    finally:
        book.close()


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows whose image columns hold a :class:`StoredImage` each, or None."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        images = [field.name for field in file.schema_arrow if _is_image(field.type)]
        plain = [name for name in file.schema_arrow.names if name not in images]
        number = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=plain).to_pylist()
            absent = {name: _column(path, group, name).is_null().to_pylist() for name in images}
            for place, row in enumerate(rows):
                for name in images:
                    called = f"{path.name}:{number}:{name}"
                    stored = StoredImage(called, _parquet_reader(path, group, place, name))
                    row[name] = None if absent[name][place] else stored
                yield row
                number += 1


def _is_image(kind: Any) -> bool:
    """Whether a column is an image of the datasets library: a structure with the bytes of a file."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


@lru_cache(maxsize=4)
def _column(path: Path, group: int, name: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[name]).column(name)


def _parquet_reader(path: Path, group: int, place: int, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        value = _column(path, group, name)[place].as_py()
        return bytes(value["bytes"])

    return read
