"""What all readers share: rows left out, images found, boxes rewritten, faults named."""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.data.boxes import holds_boxes, rewrite_boxes
from hdvl.data.quarantine import left_out
from hdvl.data.rows import RowError, to_messages
from hdvl.data.sizes import image_size
from hdvl.protocols import BoxCodec, Message

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


class RowConversations(ABC):
    """Conversations out of the rows of one source. A reader says ``count`` and ``row``.

    Args:
        label: what errors, reports and quarantine files call the source.
        image_folder: where the paths of images start.
        boxes: how the model's template writes boxes.
        written: how the source writes them, if otherwise: they are then written anew.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.
    """

    inline = False
    """Whether images stand in the text, as ``<img>path</img>``."""

    def __init__(
        self,
        *,
        label: str,
        image_folder: str = ".",
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        self.label, self.image_folder = label, Path(image_folder)
        self.boxes, self.written = boxes, written
        out = [] if quarantine is None else left_out(quarantine, label, self.count(), self.row)
        # Kept row number i is row i plus as many as are left out before it.
        self._before = [place - number for number, place in enumerate(sorted(out))]

    @abstractmethod
    def count(self) -> int:
        """How many rows the source holds, those left out included."""

    @abstractmethod
    def row(self, place: int) -> Any:
        """Row ``place`` of the source."""

    def __len__(self) -> int:
        return self.count() - len(self._before)

    def __getitem__(self, index: int) -> list[Message]:
        """Conversation number ``index``, its boxes as the template writes them.

        Raises:
            RowError: the row is no conversation; it is named.
        """
        messages = self.as_written(index)
        if self.written is None or self.boxes is None or self.written == self.boxes:
            return messages
        if not any(holds_boxes(message.text) for message in messages):
            return messages
        sizes, rewritten = list[tuple[int, int]](), list[Message]()
        for message in messages:
            sizes += [image_size(image, exif=True) for image in message.images]
            text = rewrite_boxes(message.text, self.written, self.boxes, sizes)
            rewritten.append(Message(message.role, text, message.images, message.numbered))
        return rewritten

    def as_written(self, index: int) -> list[Message]:
        """Conversation number ``index`` as the source has it."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is not in 0..{len(self) - 1} of {self.label}")
        place = self.place(index)
        try:
            return self.messages(place)
        except RowError as error:
            raise RowError(error.fault, f"{self.name(index)}: {error}") from error
        except ValueError as error:
            raise RowError("row", f"{self.name(index)}: {error}") from error

    def messages(self, place: int) -> list[Message]:
        """The conversation of row ``place``."""
        return to_messages(self.row(place), image=self.image, inline=self.inline)

    def place(self, index: int) -> int:
        """The row of the source that conversation ``index`` is."""
        return index + bisect_left(self._before, index + 1)

    def name(self, index: int) -> str:
        """What errors call conversation ``index``: its row, its id if it has one, its source."""
        place = self.place(index)
        try:
            row = self.row(place)
        except ValueError:
            row = None
        identity = row.get("id") if isinstance(row, Mapping) else None
        return f"row {place}{'' if identity is None else f' (id {identity})'} of {self.label}"

    def image(self, value: Any) -> Any:
        """An image as a row has it: a path below ``image_folder``, bytes, or {bytes, path}."""
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str) and value and not _URL.match(value):
            return self.image_folder / value
        if not value and isinstance(value, str | bytes | None):
            raise RowError("image", "an image must be a path or bytes, got nothing")
        return value
