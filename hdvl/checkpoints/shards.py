"""Writes tensors to safetensors files of limited size, and reads them one at a time."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.weights import SAFE as SINGLE
from hdvl.weights import find_weights, misfits, refuse

INDEX = f"{SINGLE}.index.json"
GB = 1_000_000_000
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types of torch -> their names in safetensors."""
COMPUTED = (torch.float32, torch.bfloat16, torch.float16)
"""The floating-point types that models compute with."""


def tie_groups(module: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Groups of names that share one tensor. The key is the first name, under which it is stored.

    ``module`` may also be a ``state_dict(keep_vars=True)``.
    """
    state = module.state_dict(keep_vars=True) if isinstance(module, nn.Module) else module
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return {group[0]: tuple(group) for group in names.values()}


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors to store: each tied tensor once, contiguous and in its own memory."""
    state = module.state_dict(keep_vars=True)
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name in tie_groups(state):
        value = state[name].detach().contiguous()
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if place in places else value
        places.add(place)
    return tensors


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Split the names, in order, into shards of at most ``max_bytes`` (a larger tensor has its own shard).

    >>> plan_shards({"a": 4, "b": 4, "c": 9, "d": 1}, max_bytes=8)
    [['a', 'b'], ['c'], ['d']]
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def write_shards(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    max_bytes: int,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write ``tensors`` to ``folder``: one file, or several and an index.

    With ``read``, only the shapes and dtypes of ``tensors`` are used (they may be on ``meta``), and the
    values are read one after the other, so that only one of them is in memory.
    """
    if max_bytes < 1:
        raise ValueError(f"max_shard must be at least 1 byte, got {max_bytes}")
    sizes = {name: value.numel() * value.element_size() for name, value in tensors.items()}
    shards = plan_shards(sizes, max_bytes)
    read = read or tensors.__getitem__
    if len(shards) == 1:
        _write_file(folder / SINGLE, tensors, read)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, {name: tensors[name] for name in names}, read)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(file: Path, layouts: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """Write one safetensors file, one tensor at a time, which the library's own writer cannot do.

    The format (https://github.com/huggingface/safetensors) is the length of the header in 8 bytes, the
    header as JSON, then the values. Wider types are written first, so that all values are aligned.
    """
    names = sorted(layouts, key=lambda name: -layouts[name].element_size())
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + layouts[name].numel() * layouts[name].element_size()
        header[name] = {
            "dtype": DTYPES[layouts[name].dtype],
            "shape": list(layouts[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            # Not bound to a name, so that the memory is freed before the next tensor is read.
            stream.write(_bytes_of(name, read(name), layouts[name]).data)


def _bytes_of(name: str, value: Tensor, layout: Tensor) -> Any:
    if (value.shape, value.dtype) != (layout.shape, layout.dtype):
        raise ValueError(
            f"{name} must be {tuple(layout.shape)} of {layout.dtype}, got {tuple(value.shape)} of "
            f"{value.dtype}"
        )
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def find_shards(folder: Path) -> list[Path]:
    """The weight files of ``folder``.

    Raises:
        ValueError: there are none, or files in the index are absent.
    """
    files, _ = find_weights(folder, (SINGLE,), others=False)
    if not files:
        raise ValueError(
            f"model folder {str(folder)!r} has no weights: neither {SINGLE} nor {INDEX}"
        )
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(
            f"model folder {str(folder)!r} lacks {', '.join(absent)}; copy all files of the folder"
        )
    return files


def read_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all stored tensors; no tensor is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file, opened in _opened(files):
        for name in opened.keys():
            if name in shapes:
                raise ValueError(f"tensor {name} is stored twice, again in {str(file)!r}")
            shapes[name] = tuple(opened.get_slice(name).get_shape())
    return shapes


def read_tensors(files: Sequence[Path], *, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names start with ``prefix``, one after the other; only those kept stay in memory."""
    for _, opened in _opened(files):
        for name in opened.keys():
            if name.startswith(prefix):
                yield name, opened.get_tensor(name)


def _opened(files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                yield file, opened
        except SafetensorError as error:
            raise ValueError(
                f"weights {str(file)!r} are damaged or truncated: {error}; copy them again"
            ) from error


def check_keys(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, source: object) -> None:
    """Compare the stored ``shapes`` with those of ``module``.

    Raises:
        ValueError: keys are missing or surplus, or shapes differ; all are listed.
    """
    own = module.state_dict(keep_vars=True)
    expected = {name: tuple(own[name].shape) for name in tie_groups(module)}
    refuse(misfits(expected, shapes), f"weights must fit the model, {source} does not")


def check_types(module: nn.Module, files: Sequence[Path], *, prefix: str = "") -> None:
    """Check that the model can use the types of the stored tensors.

    With ``prefix``, ``module`` is the part of a model whose stored names start with it.

    Floating-point tensors may have any type in ``COMPUTED``, others must have the type in the model. float64
    is allowed only if all floating-point tensors have it, as in a model that was trained in float64.

    Raises:
        ValueError: tensors have another type; file, key and type are listed.
    """
    types = {
        f"{prefix}{name}": value.dtype for name, value in module.state_dict(keep_vars=True).items()
    }
    found = [
        (str(file), name, opened.get_slice(name).get_dtype())
        for file, opened in _opened(files)
        for name in opened.keys()
        if name.startswith(prefix)
    ]
    floating = {stored for _, name, stored in found if types[name].is_floating_point}
    double = DTYPES[torch.float64]
    computed = {double} if floating == {double} else {DTYPES[kind] for kind in COMPUTED}
    faults: dict[str, list[str]] = {}
    for file, name, stored in found:
        dtype = types[name]
        if stored not in (computed if dtype.is_floating_point else {DTYPES[dtype]}):
            faults.setdefault(file, []).append(f"{name} is {stored} for {dtype}")
    refuse(faults, "weights must be stored as numbers that the model computes with, they are not")


class NotFinite:
    """Collects the names of loaded tensors with NaN or infinite values, for one warning."""

    def __init__(self, source: object) -> None:
        self.source = source
        self.names: list[str] = []

    def passing(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``tensors`` unchanged while recording their names."""
        for name, value in tensors:
            if value.is_floating_point() and value.numel() and not value.is_meta:
                # Needs no copy: both results are NaN if a value is, and an infinite value is one of them.
                least, most = value.aminmax()
                if not (isfinite(float(least)) and isfinite(float(most))):
                    self.names.append(name)
            yield name, value

    def warn(self) -> None:
        """Warn with the recorded names, if there are any."""
        if self.names:
            more = f" and {len(self.names) - 5} more" if len(self.names) > 5 else ""
            warnings.warn(
                f"weights in {self.source} hold NaN or infinite values: {', '.join(self.names[:5])}{more}; "
                "the model's answers are meaningless",
                stacklevel=3,
            )
