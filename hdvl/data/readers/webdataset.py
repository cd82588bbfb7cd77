"""WebDataset tar shards: files of one name make one row. Read in place, any row at any time."""

import json
import tarfile
from array import array
from glob import glob
from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.data.rows import RowError
from hdvl.protocols import BoxCodec

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class WebDatasetConversations(RowConversations):
    """Rows of tar files, whose members are ``KEY.EXTENSION``, those of one key behind each other.

    ``KEY.json`` is the row. Its images are the key's members with an extension of an image, in
    their order (``KEY.jpg``, or ``KEY.0.jpg``, ``KEY.1.jpg``); names under ``image`` in the row are
    not looked up. Without a ``json``, ``KEY.txt`` is the answer to ``question``.

    The headers of all shards are read once, at the start; then any row is one read, so that the order
    of samples is the run's own and goes on anywhere.

    Args:
        shards: a pattern such as ``data/train-*.tar``, or a list of them.
        question: what is asked about an image with a ``txt``.
    """

    def __init__(
        self,
        *,
        shards: str | list[str],
        question: str | None = None,
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        patterns = [shards] if isinstance(shards, str) else shards
        self.shards = sorted({path for pattern in patterns for path in glob(pattern)})
        if not self.shards:
            raise ValueError(f"shards must find at least one tar file, {shards!r} finds none")
        self.question = question
        # Of member m: its shard, place, size; row r has members _first[r] up to _first[r + 1].
        self._shard, self._offset, self._size = array("l"), array("q"), array("q")
        self._extensions, self._keys, self._first = list[str](), list[str](), array("q")
        for number, path in enumerate(self.shards):
            self._index(number, path)
        self._first.append(len(self._shard))
        if not self._keys:
            raise ValueError(f"shards {shards!r} hold no files")
        label = ",".join(patterns)
        super().__init__(label=label, boxes=boxes, written=written, quarantine=quarantine)

    def count(self) -> int:
        """How many keys the shards hold."""
        return len(self._keys)

    def row(self, place: int) -> Any:
        """The row of key ``place``, its images as bytes."""
        members = range(self._first[place], self._first[place + 1])
        found = {self._extensions[m].rpartition(".")[2]: m for m in members}
        key = self._keys[place]
        if "json" in found:
            row = json.loads(self._read(found["json"]))
        elif "txt" in found and self.question is not None:
            row = self._captioned(self._read(found["txt"]).decode("utf-8"))
        else:
            wanted = "a json" if self.question is not None else "a json, or a txt and a question,"
            raise RowError("row", f"key {key} must have {wanted}, got {sorted(found)}")
        if not isinstance(row, dict):
            raise RowError("row", f"the json of key {key} must be an object, got {row!r:.200}")
        images = [m for m in members if self._extensions[m].rpartition(".")[2] in _IMAGES]
        row = {name: value for name, value in row.items() if name != "images"}
        return {"id": key, **row, "image": [self._read(m) for m in images]}

    def _captioned(self, caption: str) -> dict[str, Any]:
        turns = [
            {"from": "human", "value": self.question},
            {"from": "gpt", "value": caption.strip()},
        ]
        return {"conversations": turns}

    def _index(self, number: int, path: str) -> None:
        try:
            with tarfile.open(path, "r:") as archive:  # not packed: rows are read in place
                key = None
                for member in archive:
                    if not member.isfile():
                        continue
                    folder, slash, name = member.name.removeprefix("./").rpartition("/")
                    stem, _, extension = name.partition(".")
                    if key != (key := folder + slash + stem):
                        self._keys.append(key)
                        self._first.append(len(self._shard))
                    self._shard.append(number)
                    self._offset.append(member.offset_data)
                    self._size.append(member.size)
                    self._extensions.append(extension.lower())
        except tarfile.TarError as error:
            raise ValueError(f"shard {path} must be an unpacked tar file: {error}") from error

    def _read(self, member: int) -> bytes:
        path = self.shards[self._shard[member]]
        with open(path, "rb") as file:
            file.seek(self._offset[member])
            data = file.read(self._size[member])
        if len(data) != self._size[member]:
            raise RowError("row", f"shard {path} is cut short at byte {self._offset[member]}")
        return data
