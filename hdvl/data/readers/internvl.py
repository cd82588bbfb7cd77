"""Reader of InternVL's meta files, which list files in LLaVA's format with folders and repetitions."""

import json
import warnings
from bisect import bisect_right
from collections.abc import Mapping
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Any

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.readers.llava import LlavaConversations
from hdvl.protocols import BoxCodec, Conversation

_KNOWN = {"root", "annotation", "repeat_time", "length", "data_augment", "max_dynamic_patch"}


class InternVLConversations:
    """Concatenates the files of a meta file (Chen et al., 2023, "InternVL", arXiv:2312.14238).

    The meta file is a JSON object that maps a name to {root, annotation, repeat_time, ...}. A
    ``repeat_time`` below 1 uses that share of the rows, from the first on. A whole number uses all rows that
    often, and 2.5 uses them twice and then the first half. ``length`` is ignored.

    ``data_augment: true`` and ``max_dynamic_patch`` are ignored with a warning, because the tiler decides
    how an image is cut. A row with a video raises.

    Args:
        path: the meta file.
        folder: the folder that the paths in the meta file are relative to.
        boxes: the box codec of the model's template.
        written: the box codec of the files, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.

    Raises:
        ValueError: the meta file has another format; the message names the source and the field.
    """

    def __init__(
        self,
        *,
        path: str,
        folder: str = ".",
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        meta = _meta(path)
        self._path = path
        self._times = {name: entry.get("repeat_time", 1) for name, entry in meta.items()}
        sources: dict[str, Conversations] = {}
        for name, entry in meta.items():
            sources[name] = LlavaConversations(
                path=str(Path(folder) / entry["annotation"]),
                image_folder=str(Path(folder) / entry.get("root", "")),
                boxes=boxes,
                written=written,
                quarantine=quarantine,
            )
        self._set_sources(sources)

    def with_sources(self, sources: Mapping[str, Conversations]) -> "InternVLConversations":
        """Return a copy that reads other sources of the same names, with the repetitions of the meta file."""
        changed = copy(self)
        changed._set_sources(sources)
        return changed

    def _set_sources(self, sources: Mapping[str, Conversations]) -> None:
        self.sources: dict[str, Conversations] = dict(sources)
        self._sources = list(self.sources.values())
        counts = (
            _repeated(len(source), self._times[name], f"{self._path}: {name}")
            for name, source in self.sources.items()
        )
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Conversation:
        """Return conversation ``index``, counted over all files with their repetitions."""
        source, place = self._find(index)
        return source[place]

    def name(self, index: int) -> str:
        """Return the name of conversation ``index`` in error messages."""
        return name_of(*self._find(index))

    def _find(self, index: int) -> tuple[Conversations, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"conversation {index} is not in 0..{len(self) - 1}")
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        source = self._sources[number]
        return source, (index - start) % len(source)


def _meta(path: str) -> dict[str, dict[str, Any]]:
    try:
        meta = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"meta file {path} must be a JSON object: {error}") from error
    if not isinstance(meta, dict) or not meta:
        raise ValueError(f"meta file {path} must be a JSON object of sources, got {meta!r:.200}")
    for name, entry in meta.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("annotation"), str):
            raise ValueError(
                f"meta file {path}: {name} must have an annotation, got {entry!r:.200}"
            )
        if unknown := sorted(set(entry) - _KNOWN):
            raise ValueError(f"meta file {path}: {name} has unknown fields {unknown}")
    asked = [
        f"{name}.{field}"
        for name, entry in meta.items()
        for field in ("data_augment", "max_dynamic_patch")
        if entry.get(field)
    ]
    if asked:
        warnings.warn(
            f"meta file {path}: {', '.join(asked)} ignored, because the tiler decides how an image is cut",
            stacklevel=3,
        )
    return meta


def _repeated(rows: int, times: Any, where: str) -> int:
    """Return the number of rows that are read if ``rows`` rows are read ``times`` times."""
    if isinstance(times, bool) or not isinstance(times, int | float) or times <= 0:
        raise ValueError(f"{where}: repeat_time must be a number above 0, got {times!r}")
    count = int(rows * times + 1e-9)
    if count < 1:
        raise ValueError(f"{where}: repeat_time={times} must keep at least one of {rows} rows")
    return count
