"""Quarantine files, which ``hdvl data lint`` writes and from which readers know the rows to leave out.

::

    {"version": 1, "sources": {NAME: {"label": LABEL, "settings": {"image_folder": "images"}, "rows": 1000,
        "left_out": [
        {"row": 12, "digest": "...", "faults": ["image"], "name": "row 12 (id a) of LABEL"}]}}}
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hdvl.data.rows import UNREADABLE
from hdvl.files import write_text

VERSION = 1


def row_digest(row: Any) -> str:
    """Hash of the content of a row."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=_bytes_digest)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def left_out(
    path: str,
    label: str,
    rows: int,
    row: Callable[[int], Any],
    *,
    settings: Mapping[str, str] | None = None,
) -> list[int]:
    """The numbers of the rows of source ``label``, read with ``settings``, that the file leaves out.

    Raises:
        ValueError: the file has no such source, or was made for other rows or settings, so that its numbers
            may be those of other rows.
    """
    source = _source(path, label, settings)
    if source["rows"] != rows:
        raise ValueError(
            f"quarantine {path} was made for {source['rows']} rows of {label}, which has "
            f"{rows}; write it again with: hdvl data lint"
        )
    entries = {entry["row"]: entry for entry in source["left_out"]}
    for place, entry in entries.items():
        if not 0 <= place < rows or digest_at(row, place) != entry["digest"]:
            raise ValueError(
                f"quarantine {path} leaves out {entry['name']}, which is another row now; write it "
                "again with: hdvl data lint"
            )
    if len(entries) == rows:
        raise ValueError(
            f"quarantine {path} leaves out every row of {label}, so that there is no data"
        )
    return list(entries)


def _source(path: str, label: str, settings: Mapping[str, str] | None) -> dict[str, Any]:
    """The entry of a source. Two sources with the same label may differ in their settings."""
    sources = _read(path)
    known = [entry for name, entry in sources.items() if entry.get("label", name) == label]
    if not known:
        raise ValueError(
            f"quarantine {path} must have the source {label!r}, it has {sorted(sources)}; write it "
            "again with: hdvl data lint"
        )
    for entry in known:
        if settings is None or entry.get("settings", settings) == settings:
            found: dict[str, Any] = entry
            return found
    made_for = " and ".join(str(entry["settings"]) for entry in known)
    raise ValueError(
        f"quarantine {path} was made for {label} with {made_for}, got {dict(settings or {})}; write it "
        "again with: hdvl data lint"
    )


def digest_at(row: Callable[[int], Any], place: int) -> str:
    """Hash of row ``place``; the hash of the error message if it cannot be read."""
    try:
        return row_digest(row(place))
    except UNREADABLE as error:
        # The message of a RecursionError depends on the depth of the call, so only its type is hashed.
        kind = type(error).__name__
        return row_digest(str(error) if isinstance(error, ValueError) else kind)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as JSON to a temporary name and rename it; an interruption keeps the old file."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


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
    """Hash of a value that JSON cannot represent: bytes, the pixels of a decoded image, else the repr."""
    if isinstance(value, Image.Image | np.ndarray):
        data = value.tobytes()
    else:
        is_bytes = isinstance(value, bytes | bytearray | memoryview)
        data = bytes(value) if is_bytes else repr(value).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()
