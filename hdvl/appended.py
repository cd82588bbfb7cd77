"""JSON lines files that one process appends to, and that stay valid if the process is killed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def append_row(file: IO[bytes], row: Mapping[str, Any]) -> None:
    """Append ``row`` as a line and flush it, so that it is not lost if the process is killed afterwards."""
    text = json.dumps(row, ensure_ascii=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")
    file.flush()


def end_torn_line(file: IO[bytes], path: Path) -> None:
    """Add a line break to ``path``, which is open for appending as ``file``, if its last line is incomplete.

    A process that was killed while it wrote a line leaves an incomplete line.
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
    """Return (first byte, byte after the last) and the mapping of each line of ``path``.

    Incomplete lines and lines that are not JSON mappings are skipped. A missing file has no lines.
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
