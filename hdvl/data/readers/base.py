"""The base class of all readers: it skips quarantined rows, finds images and rewrites boxes."""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hdvl.data.boxes import box_faults, holds_boxes, rewrite_boxes
from hdvl.data.quarantine import left_out
from hdvl.data.rows import UNREADABLE, RowError, printable, to_messages
from hdvl.data.sizes import image_size
from hdvl.images import SOURCES, is_base64
from hdvl.messages import is_given
from hdvl.protocols import BoxCodec, Message

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


class RowConversations(ABC):
    """Conversations from the rows of one source. Subclasses implement ``count`` and ``row``.

    Args:
        label: the name of the source in errors, reports and quarantine files; unique among the sources.
        image_folder: the folder that relative paths of images refer to.
        boxes: the box codec of the model's template.
        written: the box codec of the source, if it differs; boxes are then rewritten.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.
    """

    inline = False
    """Whether images are given inside the text, as ``<img>path</img>``."""

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
        self.called = label
        # The size of the image as the tiler sees it. The tiler is set when the data are built.
        self.size_of: Callable[[Any], tuple[int, int]] = partial(image_size, exif=True)
        out = list[int]()
        if quarantine is not None:
            out = left_out(quarantine, label, self.count(), self.row, settings=self.settings)
        # The row of conversation i is i plus the number of rows that are left out before it.
        self._before = [place - number for number, place in enumerate(sorted(out))]

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows of the source, including those that are left out."""

    @abstractmethod
    def row(self, place: int) -> Any:
        """Return row ``place`` of the source."""

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings that the conversation of a row depends on besides the row itself.

        A quarantine file identifies a row by its source and number, and two sources may read one file
        with different settings.
        """
        written = {} if self.written is None else {"written": repr(self.written)}
        return {"image_folder": str(self.image_folder), **written}

    def __len__(self) -> int:
        return self.count() - len(self._before)

    def __getitem__(self, index: int) -> list[Message]:
        """Return conversation ``index``, with boxes in the codec of the template.

        Raises:
            RowError: the row is no conversation; the message names the row.
        """
        messages = self.as_written(index)
        codec = self.written or self.boxes
        if codec is None or not any(holds_boxes(message.text) for message in messages):
            return messages
        sizes, rewritten = list[tuple[int, int]](), list[Message]()
        for message in messages:
            sizes += [self.size_of(image) for image in message.images]
            declared = self.written is not None
            if faults := box_faults(message.text, codec, sizes, declared=declared):
                raise RowError("box", f"{self.name(index)}: box {faults[0]}, of {message.role}")
            text = message.text
            if self.boxes is not None and self.boxes != codec:
                text = rewrite_boxes(text, codec, self.boxes, sizes)
            rewritten.append(replace(message, text=text))
        return rewritten

    def as_written(self, index: int) -> list[Message]:
        """Return conversation ``index`` with boxes as in the source."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is not in 0..{len(self) - 1} of {self.label}")
        place = self.place(index)
        try:
            return self.messages(place)
        except RowError as error:
            raise RowError(error.fault, f"{self.name(index)}: {error}") from error
        except UNREADABLE as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise RowError("row", f"{self.name(index)}: {reason}") from error

    def messages(self, place: int) -> list[Message]:
        """Return the conversation of row ``place``."""
        return to_messages(self.row(place), image=self.image, inline=self.inline)

    def place(self, index: int) -> int:
        """Return the row of the source that holds conversation ``index``."""
        return index + bisect_left(self._before, index + 1)

    def name(self, index: int) -> str:
        """Return the name of conversation ``index`` in error messages: its row, its id if any, its source."""
        place = self.place(index)
        try:
            row = self.row(place)
        except UNREADABLE:
            row = None
        identity = row.get("id") if isinstance(row, Mapping) else None
        known = isinstance(identity, str | int) and not isinstance(identity, bool)
        called = f" (id {printable(' '.join(str(identity).split()))[:100]})" if known else ""
        return f"row {place}{called} of {self.called}"

    def image(self, value: Any) -> Any:
        """Return an image that is given as a path relative to ``image_folder``, bytes, or {bytes, path}."""
        if isinstance(value, Mapping):
            value = value["bytes"] if is_given(value.get("bytes")) else value.get("path")
        if isinstance(value, str | bytes | None) and not value:
            raise RowError("image", "an image must be a path or bytes, got nothing")
        if isinstance(value, str) and not _URL.match(value) and not is_base64(value):
            return self.image_folder / value
        if not isinstance(value, SOURCES):
            raise RowError(
                "image", f"an image must be a path, bytes or {{bytes, path}}, got {value!r:.200}"
            )
        return value
