"""A row of a benchmark's file, which says where it stands when it lacks what a reader needs."""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn


class Row(dict[str, Any]):
    """The fields of a row. A field that is not there raises a :class:`ValueError` that names file and row.

    Args:
        fields: the fields.
        path: the file.
        number: number of the row in its file, from 1 on, or the key of an entry of a mapping; 0 for the
            mapping that the file itself is.
    """

    __slots__ = ("number", "path")

    def __init__(self, fields: Mapping[str, Any], path: Path, number: int | str) -> None:
        super().__init__(fields)
        self.path, self.number = path, number

    def __missing__(self, name: str) -> NoReturn:
        self.refuse(f"must have the field {name}, it has {', '.join(map(str, self)) or 'none'}")

    def refuse(self, said: str) -> NoReturn:
        """Raise the error of this row.

        Raises:
            ValueError: always.
        """
        kind = "row" if isinstance(self.number, int) else "entry"
        place = f"{kind} {self.number} of " if self.number != 0 else ""
        raise ValueError(f"{place}{self.path} {said}; restore the file")

    def whole(self, name: str) -> int:
        """A field that holds a whole number, or a text of one."""
        try:
            return int(self[name])
        except (TypeError, ValueError, OverflowError):
            if name not in self:
                raise
        self.refuse(f"must have a whole number as {name}, got {self[name]!r}")

    def listed(self, name: str) -> list[Any]:
        """A field that holds a list."""
        value = self[name]
        if not isinstance(value, list | tuple):
            self.refuse(f"must have a list as {name}, got {value!r:.80}")
        return list(value)

    def parts(self, name: str) -> Iterator["Row"]:
        """The rows in the list of a file's mapping, numbered from 1 on."""
        for number, part in enumerate(self.listed(name), 1):
            row = Row({}, self.path, number)
            row.update(row.within(part, f"this row of {name}"))
            yield row

    def literal(self, name: str) -> list[Any]:
        """A field that holds a list as Python writes it."""
        value = self[name]
        try:
            found = ast.literal_eval(str(value))
        except (ValueError, SyntaxError):
            found = None
        if not isinstance(found, list | tuple):
            self.refuse(f"must have a list in Python's form as {name}, got {value!r:.80}")
        return list(found)

    def mapping(self, name: str) -> "Row":
        """A field that holds a mapping, as a row with the same place."""
        return self.within(self[name], name)

    def within(self, value: Any, name: str) -> "Row":
        """A part of this row that must be a mapping, as a row with the same place."""
        if not isinstance(value, Mapping):
            self.refuse(f"must have a mapping of fields in {name}, got {value!r:.80}")
        return Row(value, self.path, self.number)

    def answers(self, key: str | None = None) -> tuple[str, ...]:
        """The accepted answers in the field ``answers``, if the file has them.

        Args:
            key: field of the text of an answer; ``None`` if the answers are texts themselves.
        """
        if self.get("answers") is None:
            return ()
        listed = self.listed("answers")
        if key is None:
            return tuple(map(str, listed))
        return tuple(str(self.within(one, "answers")[key]) for one in listed)

    def choice(self, name: str, allowed: Collection[str]) -> str:
        """A field whose text is one of ``allowed``."""
        return self.allowed(name, str(self[name]), allowed)

    def allowed(self, name: str, value: str, allowed: Collection[str]) -> str:
        """``value``, which was read in the field ``name`` and must be one of ``allowed``."""
        if value not in allowed:
            self.refuse(f"must have one of {', '.join(allowed)} as {name}, got {value!r:.80}")
        return value


def placed(rows: Iterable[Mapping[str, Any]], path: Path) -> Iterator[Row]:
    """Rows with their places in ``path``."""
    for number, row in enumerate(rows, 1):
        yield Row(row, path, number)


def entries(pairs: Iterable[tuple[Any, Any]], path: Path) -> Iterator[tuple[str, Row]]:
    """Entries of a mapping with their places in ``path``.

    Raises:
        ValueError: an entry is no mapping of fields.
    """
    for key, fields in pairs:
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"entry {key} of {path} must be a mapping of fields, got {type(fields).__name__}; "
                "restore the file"
            )
        yield str(key), Row(fields, path, str(key))
