"""Rows of JSON, JSONL, TSV, CSV, XLSX and parquet files, as the benchmarks are published.

Cells of a TSV or CSV are kept as text without conversion: "None", "NA" and "1.0" stay these texts, and an
empty cell is an empty text. The column ``image`` of a TSV may hold a large image in each row, so it is not
kept in memory: a row has a list of :class:`StoredImage` in its place, which read their line again when they
are needed.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hdvl.evaluation.delimited import Record, cells_of, table_records
from hdvl.evaluation.encoding import not_utf8, opened_text
from hdvl.evaluation.json_stream import json_items, reason_of, unreadable
from hdvl.evaluation.samples import StoredImage, digest, from_base64
from hdvl.evaluation.workbook import workbook_rows

IMAGE = "image"
DELIMITERS = {".tsv": "\t", ".csv": ","}
WHOLE = re.compile(r"\s*([+-]?\d+)(?:\.0*)?\s*")
LONGEST_REFERENCE = (
    64  # characters; a shorter cell names the row whose image is meant, as in VLMEvalKit
)


def read_rows(
    path: Path, under: str | None = None, *, stored_images: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file.

    Args:
        path: the file; its suffix determines the format.
        under: key of a JSON file whose value is the list of rows.
        stored_images: whether the column ``image`` of a TSV holds images; otherwise it is text as others.

    Raises:
        ValueError: the suffix is unknown, or the content of the file does not match its suffix.
    """
    readers: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        ".json": lambda: _json_rows(path, under),
        ".jsonl": lambda: jsonl_rows(path),
        ".tsv": lambda: _image_rows(path) if stored_images else _plain_rows(path),
        ".csv": lambda: _plain_rows(path),
        ".xlsx": lambda: workbook_rows(path),
        ".parquet": lambda: _parquet_rows(path),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must end with one of {', '.join(readers)}, got {path.suffix!r}")
    return readers[path.suffix.lower()]()


def whole_number(text: str) -> str:
    """A number that a table has as " 12" or "12.0", as "12"; any other text as it is."""
    found = WHOLE.fullmatch(text)
    return found[1] if found else text


def read_plain(path: Path) -> Any:
    """The value of a JSON file; benchmarks may be larger than the files that :mod:`hdvl.files` bounds."""
    try:
        with opened_text(path) as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, it is not: {error}; download it again") from None


def _json_rows(path: Path, under: str | None) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(json_items(path, under), 1):
        yield row if type(row) is dict else _mapping(row, path, f"row {number}")


def jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    with opened_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError):
                    said = f"column {error.colno} is not: {reason_of(error)}"
                else:
                    said = f"it is not: the value {unreadable(error)}"
                raise ValueError(
                    f"line {number} of {path} must be JSON, {said}; restore the file"
                ) from None
            yield _mapping(row, path, f"line {number}")


def _mapping(row: Any, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} of {path} must be a mapping of fields, got {type(row).__name__}")
    return dict(row)


def _table(path: Path) -> Iterator[tuple[Record, dict[str, str]]]:
    """The records of a TSV or CSV, each with its cells by the names of their columns."""
    records = table_records(path, DELIMITERS[path.suffix.lower()])
    try:
        header = next(records, None)
        if header is not None:
            yield from ((one, dict(zip(header.cells, one.cells, strict=True))) for one in records)
    except UnicodeDecodeError:
        raise not_utf8(path) from None


def _plain_rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in _table(path))


def _image_rows(path: Path) -> Iterator[dict[str, Any]]:
    places: dict[str, tuple[int, int, str]] = {}
    for number, (record, cells) in enumerate(_table(path), 1):
        row: dict[str, Any] = cells
        if row.get(IMAGE):
            place = (record.start, record.end, digest(row[IMAGE])[:16])
            if len(row[IMAGE]) <= LONGEST_REFERENCE and row[IMAGE] in places:
                place = places[row[IMAGE]]
            index = whole_number(str(row.get("index", number)))
            count, column = len(_listed(row[IMAGE])), list(row).index(IMAGE)
            names = [f"{path.name}:{index}" + f":{one}" * (count > 1) for one in range(count)]
            row[IMAGE] = [_stored(path, place, column, name, one) for one, name in enumerate(names)]
            places[index] = place
        yield row


def _stored(
    path: Path, place: tuple[int, int, str], column: int, name: str, number: int
) -> StoredImage:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(place[0])
            cell = cells_of(file.read(place[1] - place[0]), "\t")[column]
        return from_base64(_listed(cell)[number], name)

    return StoredImage(name, read, place[2])


def _listed(cell: str) -> list[str]:
    """The texts of a cell that holds one text, or a list of them as Python or JSON writes it."""
    if not cell.startswith("["):
        return [cell]
    found = ast.literal_eval(cell)
    return [str(one) for one in found]


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
