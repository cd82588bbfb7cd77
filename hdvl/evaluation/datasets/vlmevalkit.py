"""The tables of VLMEvalKit: one TSV for each benchmark, with the images in its cells."""

import ast
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.row import Row
from hdvl.evaluation.rows import whole_number
from hdvl.evaluation.samples import ImageReference, Sample, StoredImage

MISSING = ("", "nan")
"""Cells that mean no value where a row may have none, as hint and options; "None" and "NA" are texts."""

CATEGORIES = {
    **{"category": "category", "l2-category": "l2-category", "split": "split"},
    **{"l2_category": "l2-category", "cycle_category": "cycle"},
}


YES_OR_NO = ("Yes", "No", "yes", "no")


def letters(row: Row) -> Sequence[str]:
    """The letters that the answer of a choice may be: the columns of options, empty cells included."""
    return [letter for letter in string.ascii_uppercase if letter in row]


def yes_or_no(row: Row) -> Sequence[str]:
    """The answers of a yes-or-no question."""
    return YES_OR_NO


def one_answer(cell: str) -> tuple[str, ...]:
    """The content of the cell as the only answer."""
    return (cell,)


def answer_list(cell: str) -> tuple[str, ...]:
    """The accepted answers of a cell that holds a list as Python writes it, or one answer."""
    if cell.startswith("["):
        try:
            return tuple(map(str, ast.literal_eval(cell)))
        except (ValueError, SyntaxError):
            return (cell,)
    return (cell,)


def table_samples(
    rows: Iterable[Row],
    folder: DataFolder,
    *,
    answers: Callable[[str], tuple[str, ...]] = one_answer,
    allowed: Callable[[Row], Sequence[str]] | None = None,
    kinds: Mapping[str, str] = CATEGORIES,
    extra: Iterable[str] = (),
    images: str = "images",
) -> list[Sample]:
    """The questions of a table with the columns ``index``, ``question``, ``answer`` and ``image``.

    Args:
        rows: the rows of the table.
        folder: where the paths of images start.
        answers: reads the accepted answers out of the cell.
        allowed: the values that the cell may have, if it has one; any text if there are none.
        kinds: names of the categories that columns hold, by column.
        extra: columns that are kept in ``extra``.
        images: folder of the images that ``image_path`` names.
    """
    samples = []
    for row in rows:
        for name in ("index", "question"):
            if name not in row:
                raise ValueError(
                    f"a table of VLMEvalKit must have the column {name}, got {', '.join(row)}"
                )
        known = allowed(row) if allowed is not None and present(row.get("answer")) else ()
        if known:
            row.choice("answer", known)
        index = whole_number(str(row["index"]))
        references = image_references(row, folder, images)
        samples.append(
            Sample(
                index,
                str(row["question"]),
                references,
                answers(str(row["answer"])) if present(row.get("answer")) else (),
                options={
                    letter: str(row[letter])
                    for letter in string.ascii_uppercase
                    if present(row.get(letter))
                },
                hint=str(row["hint"]) if present(row.get("hint")) else "",
                categories={
                    kind: str(row[column])
                    for column, kind in kinds.items()
                    if present(row.get(column))
                },
                extra={column: row[column] for column in extra if column in row},
                group=" ".join(map(str, references)) or index,
            )
        )
    return samples


def present(value: object) -> bool:
    """Whether a cell has a value."""
    return value is not None and str(value) not in MISSING


def image_references(
    row: Mapping[str, Any], folder: DataFolder, images: str
) -> tuple[ImageReference, ...]:
    """The images of a row: in its cell, or in files; none if the table has no column of images."""
    cell = row.get("image")
    if isinstance(cell, list | StoredImage):
        return folder.images(cell, images)
    paths = row.get("image_path")
    if not present(paths):
        return folder.images("", images) if {"image", "image_path"} & set(row) else ()
    found = ast.literal_eval(str(paths)) if str(paths).startswith("[") else [str(paths)]
    return folder.images(found, images, "")


def table(
    folder: DataFolder,
    split: str,
    *,
    files: Mapping[str, str | Sequence[str]],
    extra: Iterable[str] = (),
) -> list[Sample]:
    """The table of a benchmark that is published in VLMEvalKit's format.

    Args:
        folder: where the table is.
        split: the split.
        files: name of the table of each split, or several names of which the first that exists is read.
        extra: columns that are kept in ``extra``.

    Raises:
        ValueError: there is no such split.
    """
    if split not in files:
        raise ValueError(f"split must be one of {', '.join(files)}, got {split!r}")
    names = files[split]
    rows = folder.rows(names) if isinstance(names, str) else folder.rows(*names)
    return table_samples(rows, folder, allowed=letters, extra=extra)
