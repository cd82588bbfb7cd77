"""Readers of saved folders and parquet files by Hugging Face's ``datasets``, which maps them into memory."""

from pathlib import Path
from typing import Any

from hdvl.data.readers.base import RowConversations
from hdvl.protocols import BoxCodec

_EXTRA = "needs the package datasets: pip install 'hdvl[data]'"


class DatasetsConversations(RowConversations):
    """Reads a folder that ``save_to_disk`` wrote.

    Images are not decoded here: an image column gives the bytes of the file, which the tiler decodes.

    Args:
        path: the folder.
        split: the split to read, if the folder holds several.
        image_folder: the folder that relative paths of images refer to.
        boxes: the box codec of the model's template.
        written: the box codec of the data, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: the folder or the split does not exist.
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
        """Return the number of rows of the data set."""
        return len(self._data)

    def row(self, place: int) -> Any:
        """Return row ``place`` without decoding its images."""
        return self._data[place].to_pylist()[0]


class ParquetConversations(DatasetsConversations):
    """Reads parquet files.

    A single row of a parquet file cannot be read without its whole group of rows, so ``datasets`` converts
    the files to Arrow files once.

    Args:
        path: a file, a folder of files, or a pattern such as ``data/train-*.parquet``.
        cache_dir: the folder for the Arrow files; ``None`` for the cache of ``datasets``.
        image_folder: the folder that relative paths of images refer to.
        boxes: the box codec of the model's template.
        written: the box codec of the data, if it differs.
        quarantine: a file of ``hdvl data lint``; the rows that it names are left out.
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
        raise ValueError(
            f"path must be a parquet file, a folder or a pattern, {path!r} matches none"
        )
    # The number of files, sizes and times are part of the cache's key: a changed file is converted again.
    return _raw(Dataset.from_parquet([str(file) for file in files], cache_dir=cache_dir), path)


def _raw(data: Any, path: str) -> Any:
    if not len(data):
        raise ValueError(f"{path} holds no rows")
    return data.with_format("arrow")
