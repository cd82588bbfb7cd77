"""Identifies a model folder without reading all of its weights."""

import hashlib
from pathlib import Path
from typing import Any

SAMPLED = 16
"""Places of a weight file that are read, from its first to its last bytes."""
BLOCK = 65536
"""Bytes that are read at each place."""


def folder_identity(folder: Path) -> dict[str, Any]:
    """The size and a hash of each file of a model folder, by its path.

    Files of weights are hashed at ``SAMPLED`` places; other files are hashed whole. The folder may be
    copied or renamed without becoming another model.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {
        name: [path.stat().st_size, sampled_hash(path)]
        for name, path in zip(names, files, strict=True)
        if not name.endswith(".md")
    }


def sampled_hash(path: Path) -> str:
    """SHA-256 of a file, or of blocks of it if it is longer than these."""
    size, total = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLED * BLOCK:
            total.update(file.read())
        else:
            for place in range(SAMPLED):
                file.seek((size - BLOCK) * place // (SAMPLED - 1))
                total.update(file.read(BLOCK))
    return total.hexdigest()[:16]
