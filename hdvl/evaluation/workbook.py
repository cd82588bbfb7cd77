"""Rows of the first sheet of a workbook of Excel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile
from zlib import error as BrokenDeflate

from hdvl.evaluation.delimited import refuse_repeated


def workbook_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows by the names in the first one, without empty rows.

    A number is read as by pandas: one that has no fraction is an ``int``, whatever the format of its cell.

    Raises:
        ValueError: the file is no workbook, or a cell is in a column without a name or holds a formula.
    """
    with _opened(path) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write wrong ones
        header: list[str | None] = []
        for number, cells in enumerate(sheet.iter_rows(), 1):
            found = _stripped([_value(path, cell) for cell in cells])
            if not found:
                continue
            if not header:
                header = [None if cell is None else str(cell) for cell in found]
                refuse_repeated(path, [name for name in header if name is not None])
                continue
            pairs = list(zip_longest(header, found))
            _check_named(f"row {number} of {path}", pairs)
            yield {name: cell for name, cell in pairs if name is not None}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The workbook, with one error for each way in which it may be broken."""
    from openpyxl import load_workbook

    broken = (BadZipFile, BrokenDeflate, KeyError, ParseError, EOFError)
    try:
        book = load_workbook(path, read_only=True)
        if not book.worksheets:
            raise ValueError(f"{path} must have a sheet of cells, it has none")
        try:
            yield book
        finally:
            book.close()
    except broken as error:
        raise ValueError(
            f"{path} must be a workbook of Excel, it is not: {error}; save it again as .xlsx"
        ) from None


def _check_named(place: str, pairs: Sequence[tuple[str | None, Any]]) -> None:
    """Refuse values in a column without a name, but for the first, in which pandas numbers its rows."""
    from openpyxl.utils import get_column_letter

    for column, (name, cell) in enumerate(pairs[1:], 2):
        if name is None and cell is not None:
            raise ValueError(
                f"{place} must have values in named columns only, got {cell!r} in column "
                f"{get_column_letter(column)}; put an answer into one cell, or name the column"
            )


def _value(path: Path, cell: Any) -> Any:
    """The value of a cell. Raises ``ValueError`` if it is a formula, whose result may not be stored."""
    value = cell.value
    if cell.data_type == "f":
        raise ValueError(
            f"cell {cell.coordinate} of {path} must be a value, got the formula {value!r}; put the values of "
            "formulas into the cells (copy, paste values) and save the file again"
        )
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _stripped(cells: Sequence[Any]) -> list[Any]:
    """The cells without the empty ones at their end."""
    found = list(cells)
    while found and found[-1] is None:
        found.pop()
    return found
