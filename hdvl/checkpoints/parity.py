"""Compares the weights of two folders tensor by tensor, without loading either as a whole."""

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
    """The tensors of a folder. ``kind`` is hdvl, the name of an importer, or ``names as stored``."""

    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@dataclass(frozen=True)
class Compared:
    """The comparison of one tensor.

    Attributes:
        name: the name of the tensor.
        difference: the largest absolute difference; None if the tensors cannot be subtracted.
        reason: why they cannot be subtracted.
    """

    name: str
    difference: float | None
    reason: str = ""


def tensors_in(folder: str | Path) -> Tensors:
    """The tensors in ``folder``, under hdvl's names if hdvl knows the layout.

    Raises:
        ValueError: files are damaged or missing, or tensors do not fit the layout.
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
        return table.read_tensor(opened.mapping[target], opened.published)

    return Tensors(name, table.targets_of(opened.vlm), read)


def compare(first: Tensors, second: Tensors) -> Iterator[Compared]:
    """Compare every tensor of the two folders, ordered by name."""
    for name in sorted({*first.shapes, *second.shapes}):
        shapes = [tensors.shapes.get(name) for tensors in (first, second)]
        if None in shapes:
            yield Compared(name, None, f"only in the {'second' if shapes[0] is None else 'first'}")
        elif shapes[0] != shapes[1]:
            yield Compared(name, None, f"shapes {shapes[0]} and {shapes[1]}")
        else:
            yield Compared(name, largest_difference(first.read(name), second.read(name)))


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference in float64; infinite where only one of two values is NaN."""
    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    difference = (wide_a - wide_b).abs()
    difference[wide_a.isnan() & wide_b.isnan() | (wide_a == wide_b)] = 0
    return (
        float(torch.nan_to_num(difference, nan=float("inf")).max()) if difference.numel() else 0.0
    )
