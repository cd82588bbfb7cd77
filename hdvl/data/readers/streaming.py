"""Shards of mosaicml-streaming, on a disk or fetched from an object store shard by shard."""

from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec


class StreamingConversations(RowConversations):
    """Rows of MDS shards: columns ``conversations`` (or ``messages``, ``texts``) and ``image``.

    The library fetches shards and keeps them in ``local``, up to ``cache_limit``; the order of samples
    is the run's own, so that it goes on exactly, with any number of ranks and workers. That order
    is shuffled over all shards: give ``cache_limit`` room for them, or set ``data.shuffle=false`` and
    shuffle when the shards are written.

    Args:
        local: the folder of the shards, or of what is fetched.
        remote: where to fetch from, such as ``s3://bucket/train``; null for nowhere.
        cache_limit: most bytes on the disk, such as ``100gb``; null for no limit.

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
        """How many rows the shards hold."""
        return int(self._data.size)

    def row(self, place: int) -> Any:
        """Row ``place``; its shard is fetched if it is not here."""
        return self._data[place]
