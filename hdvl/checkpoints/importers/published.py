"""The weight files of a published folder: safetensors or pickled shards, read tensor by tensor."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from hdvl.checkpoints.shards import DTYPES
from hdvl.weights import INDEX, PICKLED, SAFE, find_weights

_POINTER = b"version https://git-lfs"
_DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()} | {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class _SafeFile:
    """An opened safetensors file."""

    mapped = True

    def __init__(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._name = file.name
        try:
            self._opened: Any = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{file.name} is damaged or truncated: {error}") from error

    def layouts(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of each tensor."""
        for name in self._opened.keys():
            piece = self._opened.get_slice(name)
            if piece.get_dtype() not in _DTYPE_OF:
                raise ValueError(
                    f"{self._name} holds {name} as {piece.get_dtype()}, which hdvl cannot read"
                )
            yield name, tuple(piece.get_shape()), _DTYPE_OF[piece.get_dtype()]

    def read(self, name: str) -> Tensor:
        """One tensor."""
        tensor: Tensor = self._opened.get_tensor(name)
        return tensor


class _PickledFile:
    """An opened torch file: mapped into memory if it is of the newer zip kind, else read as a whole."""

    mapped: bool

    def __init__(self, file: Path, inner: str | None) -> None:
        with file.open("rb") as stream:
            self.mapped = stream.read(2) == b"PK"
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=self.mapped)
        except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"{file.name} is damaged, truncated, or holds more than tensors: "
                f"{reason[0] if reason else type(error).__name__}"
            ) from error
        if inner is not None and isinstance(state, Mapping):
            if inner not in state:
                raise ValueError(f"{file.name} must hold a dict under {inner!r}, got {list(state)}")
            state = state[inner]
        if not isinstance(state, Mapping) or not all(
            isinstance(value, Tensor) for value in state.values()
        ):
            raise ValueError(f"{file.name} must hold a flat dict of tensors")
        self._state: dict[str, Tensor] = dict(state)

    def layouts(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of each tensor."""
        for name, value in self._state.items():
            yield name, tuple(value.shape), value.dtype

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._state[name].detach()


class _OpenFiles:
    """Keeps one file open at a time: the last one that was read from.

    The pages of a mapped file that were read count as memory of this process until the file is closed.
    It is therefore closed each time a twentieth of it has been read.
    """

    def __init__(self, inner: str | None = None) -> None:
        self._inner = inner
        self._file: Path | None = None
        self._opened: _SafeFile | _PickledFile | None = None
        self._bytes_read = self._size = 0

    def open(self, file: Path) -> _SafeFile | _PickledFile:
        """Open ``file``; the file that was open before is closed first."""
        if self._opened is None or file != self._file:
            self._opened = None
            with file.open("rb") as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    raise ValueError(f"{file.name} is a pointer of git-lfs, not the weights")
            safe = file.suffix == ".safetensors"
            self._opened = _SafeFile(file) if safe else _PickledFile(file, self._inner)
            self._file, self._bytes_read, self._size = file, 0, file.stat().st_size
        return self._opened

    def read(self, file: Path, name: str, *, held: bool) -> Tensor:
        """One tensor of ``file``; with ``held`` its memory is not counted, since the caller keeps it."""
        opened = self.open(file)
        value = opened.read(name)
        self._bytes_read += 0 if held else value.numel() * value.element_size()
        if opened.mapped and 20 * self._bytes_read > self._size:
            self._opened = None
        return value


@dataclass(frozen=True)
class Stored:
    """One stored tensor: shape, type, file and name in the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    name: str
    opener: _OpenFiles


class Published:
    """The tensors of a published model by the names they are stored under.

    One shard of each folder is open at a time, mapped into memory if its format allows it. Reading then
    needs the memory of the tensors that are kept and of a twentieth of the shard. A torch file of the format
    before 1.6 is loaded as a whole while it is open.
    """

    stored: dict[str, Stored]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = dict(stored)
        self.shapes = {key: item.shape for key, item in self.stored.items()}
        self.dtypes = {key: item.dtype for key, item in self.stored.items()}
        files = dict.fromkeys(item.file for item in self.stored.values())
        self._places = {file: place for place, file in enumerate(files)}

    @classmethod
    def in_folder(cls, folder: Path) -> "Published":
        """The weights in ``folder``: shards with or without an index, or one file.

        Raises:
            ValueError: there are no weights, or shards are absent, truncated, or lack tensors that the
                index lists; all are named.
        """
        files, promised = weight_files(folder)
        return cls.in_files(files, promised=promised)

    @classmethod
    def in_files(
        cls,
        files: Sequence[Path],
        *,
        promised: Mapping[str, str] | None = None,
        inner: str | None = None,
    ) -> "Published":
        """The weights in ``files``.

        Args:
            files: safetensors files or torch pickles, which are read with ``weights_only``.
            promised: the file name of each key according to an index.
            inner: the key of a pickle under which the dict of tensors is stored.
        """
        opener, stored, faults = _OpenFiles(inner), dict[str, Stored](), list[str]()
        for file in files:
            if not file.is_file():
                faults.append(f"{file.name} does not exist")
                continue
            try:
                for name, shape, dtype in opener.open(file).layouts():
                    if name in stored:
                        faults.append(f"{name} is in {stored[name].file.name} and in {file.name}")
                    stored[name] = Stored(shape, dtype, file, name, opener)
            except ValueError as error:
                faults.append(str(error))
        if not faults:
            faults = [
                f"{file} lacks {key}, which the index lists"
                for key, file in (promised or {}).items()
                if key not in stored or stored[key].file.name != file
            ]
        if faults:
            where = str(files[0].parent) if files else "no files"
            raise ValueError(
                f"weights in {where!r} must be complete, they are not: {'; '.join(faults)}; "
                "copy those files again"
            )
        return cls(stored)

    @classmethod
    def joined(cls, parts: Mapping[str, "Published"]) -> "Published":
        """Several folders as one, with the prefix of each folder in front of its keys."""
        return cls(
            {
                prefix + key: item
                for prefix, part in parts.items()
                for key, item in part.stored.items()
            }
        )

    def read(self, key: str, *, held: bool = False) -> Tensor:
        """The tensor stored under ``key``; treat it as read-only. ``held``: whether the caller keeps it."""
        item = self.stored[key]
        return item.opener.read(item.file, item.name, held=held)

    def place(self, key: str) -> int:
        """The number of the file that holds ``key``: reading in this order opens each file once."""
        return self._places[self.stored[key].file]

    def common_dtype(self) -> torch.dtype:
        """The floating-point type of most stored numbers."""
        amounts: Counter[torch.dtype] = Counter()
        for item in self.stored.values():
            if item.dtype.is_floating_point:
                amounts[item.dtype] += torch.Size(item.shape).numel()
        return amounts.most_common(1)[0][0] if amounts else torch.float32


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of ``folder``, and the file name of each key in its index.

    If there are both safetensors files and pickles, the pickles are not read.

    Raises:
        ValueError: there are no weight files, or the index cannot be read.
    """
    files, promised = find_weights(folder)
    if not files:
        names = ", ".join((*(f"{name}{INDEX}" for name in (SAFE, PICKLED)), SAFE, PICKLED))
        raise ValueError(
            f"folder {str(folder)!r} must hold weights: one of {names}, or numbered shards"
        )
    return files, promised
