"""Rows to leave out: a file that ``hdvl data lint`` writes and every reader takes.

::

    {"version": 1, "sources": {LABEL: {"rows": 1000, "left_out": [
        {"row": 12, "digest": "...", "faults": ["image"], "name": "row 12 (id a) of LABEL"}]}}}
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

VERSION = 1


def row_digest(row: Any) -> str:
    """Hash of a row as it stands in its source."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=_bytes_digest)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def left_out(path: str, label: str, rows: int, row: Callable[[int], Any]) -> list[int]:
    """The rows of source ``label`` that the file leaves out, once each.

    Raises:
        ValueError: the file knows no such source, or was made for other rows: leaving out by number
            would then leave out the wrong ones.
    """
    sources = _read(path)
    if label not in sources:
        raise ValueError(
            f"quarantine {path} must know the source {label!r}, it knows {sorted(sources)}; make it "
            "anew with: hdvl data lint"
        )
    if sources[label]["rows"] != rows:
        raise ValueError(
            f"quarantine {path} was made for {sources[label]['rows']} rows of {label}, which has "
            f"{rows}; make it anew with: hdvl data lint"
        )
    entries = {entry["row"]: entry for entry in sources[label]["left_out"]}
    for place, entry in entries.items():
        if not 0 <= place < rows or digest_at(row, place) != entry["digest"]:
            raise ValueError(
                f"quarantine {path} leaves out {entry['name']}, which is another row now; make it "
                "anew with: hdvl data lint"
            )
    if len(entries) == rows:
        raise ValueError(f"quarantine {path} leaves out every row of {label}; nothing is left")
    return list(entries)


def digest_at(row: Callable[[int], Any], place: int) -> str:
    """Hash of row ``place``; one that cannot be read has the hash of the reason."""
    try:
        return row_digest(row(place))
    except ValueError as error:
        return row_digest(str(error))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"quarantine {path} must be JSON of hdvl data lint: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"quarantine {path} must be of version {VERSION}")
    sources: dict[str, Any] = content["sources"]
    return sources


def _bytes_digest(value: Any) -> str:
    """Images in rows: by their bytes, or by their pixels where the source has decoded them."""
    data = value.tobytes() if isinstance(value, Image.Image) else bytes(value)
    return hashlib.blake2b(data, digest_size=16).hexdigest()
