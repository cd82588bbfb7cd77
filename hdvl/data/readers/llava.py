"""Reader of LLaVA's format: a JSON array or JSON lines of {id, image, conversations: [{from, value}]}."""

from typing import Any

from hdvl.data.lines import JsonRows
from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec


class LlavaConversations(RowConversations):
    """Reads a JSON or JSONL file (Liu et al., 2023, "Visual instruction tuning", arXiv:2304.08485).

    ``image`` of a row is a file name relative to ``image_folder``, a list of file names, or absent. Rows
    may also have the other formats that :func:`hdvl.data.rows.to_messages` accepts.

    Args:
        path: the file, which is also the label of the source.
        image_folder: the folder that relative paths of images refer to.
        boxes: the box codec of the model's template.
        written: the box codec of the file, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.
    """

    def __init__(
        self,
        *,
        path: str,
        image_folder: str = ".",
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        self.rows = JsonRows(path)
        super().__init__(
            label=path,
            image_folder=image_folder,
            boxes=boxes,
            written=written,
            quarantine=quarantine,
        )

    def count(self) -> int:
        """Return the number of rows of the file."""
        return len(self.rows)

    def row(self, place: int) -> Any:
        """Return row ``place`` of the file."""
        return self.rows[place]
