"""Two folders of weights compared tensor by tensor, neither of them in memory as a whole."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hdvl.checkpoints.importers import detect
from hdvl.checkpoints.importers import mapping as table
from hdvl.checkpoints.importers.conversion import open_published
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.native import is_model_folder
from hdvl.checkpoints.shards import find_shards


@dataclass(frozen=True)
class Tensors:
    """The tensors of a folder. ``kind``: hdvl, an importer's name, or ``names as stored``."""

    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@dataclass(frozen=True)
class Compared:
    """One tensor of two folders. ``difference`` is the largest one, None where it cannot be said."""

    name: str
    difference: float | None
    said: str = ""


def tensors_in(folder: str | Path) -> Tensors:
    """What lies in ``folder``, under hdvl's names if hdvl knows the layout.

    Raises:
        ValueError: damaged or missing files, or a layout whose tensors do not fit.
    """
    folder = Path(folder)
    if is_model_folder(folder):
        found = Published.in_files(find_shards(folder))
        return Tensors("hdvl", found.shapes, found.read)
    name = detect(folder)
    if name is None:
        found = Published.in_folder(folder)
        return Tensors("names as stored", found.shapes, found.read)
    opened = open_published(folder, name)

    def read(target: str) -> Tensor:
        return table.produce(opened.mapping[target], opened.published)

    return Tensors(name, table.targets_of(opened.vlm), read)


def compare(first: Tensors, second: Tensors) -> Iterator[Compared]:
    """Each tensor of either, in order of names: absent, misshapen, or how far apart."""
    for name in sorted({*first.shapes, *second.shapes}):
        shapes = [tensors.shapes.get(name) for tensors in (first, second)]
        if None in shapes:
            yield Compared(name, None, f"only in the {'second' if shapes[0] is None else 'first'}")
        elif shapes[0] != shapes[1]:
            yield Compared(name, None, f"shapes {shapes[0]} and {shapes[1]}")
        else:
            yield Compared(name, largest_difference(first.read(name), second.read(name)))


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference, in float64; infinite where one is not a number alone."""
    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    apart = (wide_a - wide_b).abs()
    apart[wide_a.isnan() & wide_b.isnan() | (wide_a == wide_b)] = 0
    return float(torch.nan_to_num(apart, nan=float("inf")).max()) if apart.numel() else 0.0
