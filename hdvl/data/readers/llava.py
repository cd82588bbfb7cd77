"""LLaVA's JSON: an array, or one row a line, of {id, image, conversations: [{from, value}]}."""

from typing import Any

from hdvl.data.lines import JsonRows
from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec


class LlavaConversations(RowConversations):
    """Rows of a JSON or JSONL file (Liu et al., 2023, "Visual instruction tuning", arXiv:2304.08485).

    ``image`` is a file name below ``image_folder``, a list of them, or absent. The rows may be of any
    shape that :func:`hdvl.data.rows.to_messages` knows. ``path`` is also the label; see the base for
    the other arguments.
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
        """How many rows the file holds."""
        return len(self.rows)

    def row(self, place: int) -> Any:
        """Row ``place`` of the file."""
        return self.rows[place]
