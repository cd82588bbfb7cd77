"""WebDataset tar shards: files with the same key form one row. Rows are read at random from the tar files."""

import json
import tarfile
from array import array
from collections.abc import Mapping
from glob import glob
from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.data.rows import RowError
from hdvl.images import MAX_BYTES
from hdvl.messages import is_given
from hdvl.protocols import BoxCodec
from hdvl.sequences import one_or_several

_IMAGES = frozenset(
    "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff avif avifs heic heif jxl jp2 j2k jpx jpf jpc "
    "j2c ppm pgm pbm pnm pfm tga qoi ico".split()
)
"""Extensions of images. Some Pillow reads only with a plugin; without it they are errors of their row."""

_VIDEOS = frozenset("mp4 webm avi mov mkv m4v mpg mpeg".split())
_TURNS = ("conversations", "messages", "texts")


class WebDatasetConversations(RowConversations):
    """Reads tar files whose members are named ``KEY.EXTENSION``; members of one key follow each other.

    ``KEY.json`` is the row. Its images are the members of the key with the extension of an image, in their
    order (``KEY.jpg``, or ``KEY.0.jpg``, ``KEY.1.jpg``); file names under ``image`` in the row are ignored.
    If there is no ``json``, or one without turns as img2dataset writes it, the conversation is ``question``
    and its answer, which is ``KEY.txt`` or else the ``caption`` of the ``json``. Hidden files, such as the
    ``._KEY.jpg`` of macOS, are skipped.

    The headers of all shards are read once at the start. Afterwards each row takes one read, so that rows
    can be read in any order.

    Args:
        shards: a pattern such as ``data/train-*.tar``, or a list of patterns.
        question: the question about an image that has a caption but no conversation.
        boxes: the box codec of the model's template.
        written: the box codec of the shards, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.

    Raises:
        ValueError: no shard is found, or a shard is no uncompressed tar file.
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
        patterns = one_or_several(shards, "shards")
        self.shards = sorted({path for pattern in patterns for path in glob(pattern)})
        if not self.shards:
            raise ValueError(f"shards must find at least one tar file, {shards!r} matches none")
        self.question = question
        # Shard, offset and size of each member; row r has the members from _first[r] to _first[r + 1].
        self._shard, self._offset, self._size = array("l"), array("q"), array("q")
        self._extensions, self._keys, self._first = list[str](), list[str](), array("q")
        for number, path in enumerate(self.shards):
            self._index(number, path)
        self._first.append(len(self._shard))
        if not self._keys:
            raise ValueError(f"shards {shards!r} hold no files")
        label = ",".join(patterns)
        super().__init__(label=label, boxes=boxes, written=written, quarantine=quarantine)

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of all readers, and the question."""
        return {**super().settings, "question": str(self.question)}

    def count(self) -> int:
        """Return the number of keys of all shards."""
        return len(self._keys)

    def row(self, place: int) -> Any:
        """Return the row of key ``place``, with its images as bytes."""
        members = range(self._first[place], self._first[place + 1])
        found = {self._extensions[m].rpartition(".")[2]: m for m in members}
        key = self._keys[place]
        row = json.loads(self._read(found["json"])) if "json" in found else {}
        if not isinstance(row, dict):
            raise RowError("row", f"the json of key {key} must be an object, got {row!r:.200}")
        if videos := sorted(found.keys() & _VIDEOS):
            raise RowError("row", f"a row must be text and images, key {key} has {videos}")
        if not any(is_given(row.get(name)) for name in _TURNS):
            caption = self._caption(found, row)
            if caption is None or self.question is None:
                raise RowError("row", self._no_turns(key, found, row))
            row = {**row, **self._captioned(caption)}
        images = [m for m in members if self._extensions[m].rpartition(".")[2] in _IMAGES]
        row = {name: value for name, value in row.items() if name != "images"}
        return {"id": key, **row, "image": [self._read(m) for m in images]}

    def _caption(self, found: Mapping[str, int], row: Mapping[str, Any]) -> str | None:
        if "txt" in found:
            return self._read(found["txt"]).decode("utf-8-sig")
        caption = row.get("caption")
        return caption if isinstance(caption, str) else None

    def _no_turns(self, key: str, found: Mapping[str, int], row: Mapping[str, Any]) -> str:
        turns = f"a json with one of {', '.join(_TURNS)}"
        asked = "a txt or a caption" if self.question is not None else "a txt and a question"
        return (
            f"key {key} must have a json, or {asked}, got {sorted(found)}"
            if "json" not in found
            else f"key {key} must have {turns}, or {asked}, got {sorted(row)!r:.200}"
        )

    def _captioned(self, caption: str) -> dict[str, Any]:
        turns = [
            {"from": "human", "value": self.question},
            {"from": "gpt", "value": caption.strip()},
        ]
        return {"conversations": turns}

    def _index(self, number: int, path: str) -> None:
        try:
            with tarfile.open(
                path, "r:"
            ) as archive:  # uncompressed, so that rows can be read at random
                key = None
                for member in archive:
                    if not member.isfile():
                        continue
                    folder, slash, name = member.name.removeprefix("./").rpartition("/")
                    if name.startswith(".") or "__MACOSX" in folder.split("/"):
                        continue
                    stem, _, extension = name.partition(".")
                    if key != (key := folder + slash + stem):
                        self._keys.append(key)
                        self._first.append(len(self._shard))
                    self._shard.append(number)
                    self._offset.append(member.offset_data)
                    self._size.append(member.size)
                    self._extensions.append(extension.lower())
        except tarfile.TarError as error:
            raise ValueError(f"shard {path} must be an uncompressed tar file: {error}") from error

    def _read(self, member: int) -> bytes:
        path = self.shards[self._shard[member]]
        offset, size = self._offset[member], self._size[member]
        if size > MAX_BYTES:
            raise RowError(
                "row", f"a member of shard {path} must have at most {MAX_BYTES} bytes, got {size}"
            )
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise RowError("row", f"shard {path} is cut short at byte {offset}")
        return data
