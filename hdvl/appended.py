"""JSON lines that one process appends to a file, each of which survives the end of the process."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def append_row(file: IO[bytes], row: Mapping[str, Any]) -> None:
    """Write ``row`` as a line. It survives the end of this process as soon as this returns."""
    text = json.dumps(row, ensure_ascii=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")
    file.flush()


def end_torn_line(file: IO[bytes], path: Path) -> None:
    """End the last line of ``path``, open for appending as ``file``, if it is not whole.

    A process that is killed while it writes a line leaves a part of it.
    """
    if not file.tell():
        return
    with path.open("rb") as rows:
        rows.seek(-1, 2)
        torn = rows.read() != b"\n"
    if torn:
        file.write(b"\n")
        file.flush()


def whole_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The place of each line of ``path``, its first byte and the one after its last, and its mapping.

    Lines that are not whole, or no JSON mapping, are left out; of a file that does not exist there are none.
    """
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as lines:
        for line in lines:
            stop = start + len(line)
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if line.endswith(b"\n") and isinstance(row, dict):
                yield start, stop, row
            start = stop
