"""Data sets of Hugging Face's ``datasets``: saved folders and parquet files, mapped into memory."""

from pathlib import Path
from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec

_EXTRA = "needs the package datasets: pip install 'hdvl[data]'"


class DatasetsConversations(RowConversations):
    """A folder written by ``save_to_disk``.

    Rows are read as Arrow has them: an image column gives the bytes of the file, which the tiler
    decodes. For a folder of several splits ``split`` names one.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: no such folder, no such split.
    """

    def __init__(
        self,
        *,
        path: str,
        split: str | None = None,
        image_folder: str = ".",
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        self._data = _load(path, split)
        super().__init__(
            label=path if split is None else f"{path}:{split}",
            image_folder=image_folder,
            boxes=boxes,
            written=written,
            quarantine=quarantine,
        )

    def count(self) -> int:
        """How many rows the data set holds."""
        return len(self._data)

    def row(self, place: int) -> Any:
        """Row ``place``, not decoded."""
        return self._data[place].to_pylist()[0]


class ParquetConversations(DatasetsConversations):
    """Parquet files: a file, a folder of them, or a pattern such as ``data/train-*.parquet``.

    ``datasets`` writes them once as Arrow files into ``cache_dir`` (its own cache where null): a
    single row of a parquet file cannot be read without its whole group of rows.
    """

    def __init__(
        self,
        *,
        path: str,
        cache_dir: str | None = None,
        image_folder: str = ".",
        boxes: BoxCodec | None = None,
        written: BoxCodec | None = None,
        quarantine: str | None = None,
    ) -> None:
        self._cache = cache_dir
        self._data = _from_parquet(path, cache_dir)
        RowConversations.__init__(
            self,
            label=path,
            image_folder=image_folder,
            boxes=boxes,
            written=written,
            quarantine=quarantine,
        )


def _load(path: str, split: str | None) -> Any:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise ImportError(f"a data set folder {_EXTRA}") from error
    try:
        data = load_from_disk(path)
    except FileNotFoundError as error:
        raise ValueError(f"path must be a folder written by save_to_disk, got {path!r}") from error
    if not isinstance(data, Dataset):
        if split not in data:
            raise ValueError(f"split of {path} must be one of {sorted(data)}, got {split!r}")
        data = data[split]
    elif split is not None:
        raise ValueError(f"{path} has no splits, got split={split!r}; leave it out")
    return _raw(data, path)


def _from_parquet(path: str, cache_dir: str | None) -> Any:
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(f"a parquet file {_EXTRA}") from error
    base = Path(path)
    pattern = "*.parquet" if base.is_dir() else base.name
    files = sorted((base if base.is_dir() else base.parent).glob(pattern))
    if not files:
        raise ValueError(f"path must be a parquet file, a folder or a pattern, {path!r} finds none")
    # The number of files, sizes and times are part of the cache's key: a changed file is read anew.
    return _raw(Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir), path)


def _raw(data: Any, path: str) -> Any:
    if not len(data):
        raise ValueError(f"{path} holds no rows")
    return data.with_format("arrow")
