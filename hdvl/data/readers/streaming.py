"""Reader of mosaicml-streaming's shards, from a disk or from an object store."""

from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec


class StreamingConversations(RowConversations):
    """Reads MDS shards with the columns ``conversations`` (or ``messages``, ``texts``) and ``image``.

    The library downloads shards and keeps them in ``local``. The order of samples is that of the run, not
    that of the library, so that training resumes exactly with any number of ranks and workers. The order is
    shuffled over all shards: choose ``cache_limit`` large enough for all of them, or set
    ``data.shuffle=false`` and shuffle when the shards are written.

    Args:
        local: the folder of the shards, or of the downloaded ones.
        remote: the address to download from, such as ``s3://bucket/train``; ``None`` for local shards.
        cache_limit: the most bytes on the disk, such as ``100gb``; ``None`` for no limit.
        boxes: the box codec of the model's template.
        written: the box codec of the shards, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.

    Raises:
        ImportError: the library is not installed.
    """

    def __init__(
        self,
        *,
        local: str,
        remote: str | None = None,
        cache_limit: str | None = None,
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        try:
            from streaming import StreamingDataset
        except ImportError as error:
            raise ImportError(
                "MDS shards need mosaicml-streaming; its 0.13.0 asks for transformers below 5, hdvl "
                "for 5.10 on, and it works with that: pip install --no-deps mosaicml-streaming "
                f"catalogue brotli python-snappy cramjam zstd xxhash ({error})"
            ) from error
        self._data = StreamingDataset(
            local=local, remote=remote, cache_limit=cache_limit, shuffle=False, batch_size=1
        )
        super().__init__(label=remote or local, boxes=boxes, written=written, quarantine=quarantine)

    def count(self) -> int:
        """Return the number of rows of all shards."""
        return int(self._data.size)

    def row(self, place: int) -> Any:
        """Return row ``place``; its shard is downloaded if necessary."""
        return self._data[place]
