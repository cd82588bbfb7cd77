"""Loads single parts from other model folders, for ``encoder=from encoder.folder=hdvl/small``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.checkpoints.native import is_model_folder, model_node
from hdvl.checkpoints.nodes import assemble, unmarked
from hdvl.checkpoints.shards import (
    check_keys,
    check_types,
    find_shards,
    read_shapes,
    read_tensors,
)
from hdvl.checkpoints.skeleton import fill, parameters_on_meta, tie
from hdvl.checkpoints.sources import find_folder, is_published
from hdvl.checkpoints.taken import Taken, note
from hdvl.inputs import check_checkpoint
from hdvl.precision import converted
from hdvl.probe import from_factory
from hdvl.protocols import LLM, Bridge, Encoder, Grid, Merger, Size


def encoder_from(*, folder: str, allow: Sequence[str] = ()) -> Encoder:
    """The encoder of the model in ``folder``, with its weights in float32.

    On the ``meta`` device no weights are read.

    Args:
        folder: a model folder of hdvl, a run, or a shipped model such as ``hdvl/small``.
        allow: packages besides hdvl whose classes the folder may name.

    Raises:
        ValueError: there is no such folder, or it holds no model of hdvl.
    """
    encoder: Encoder = _taken("encoder", folder, allow)
    return encoder


def llm_from(*, folder: str, allow: Sequence[str] = (), dtype: str = "float32") -> LLM:
    """The language model of the model in ``folder``, with its tokenizer and its weights in ``dtype``.

    Arguments and errors are those of :func:`encoder_from`. The tokenizer keeps the tokens that the model in
    ``folder`` added to it.
    """
    llm: LLM = _taken("llm", folder, allow, dtype=dtype)
    return llm


def bridge_from(
    *, in_width: int, out_width: int, grid: Grid, folder: str, allow: Sequence[str] = ()
) -> Bridge:
    """The bridge of the model in ``folder``, with its weights in float32.

    Arguments and errors are those of :func:`encoder_from`.

    Raises:
        ValueError: the encoder's features or the embeddings of the language model have other widths than
            the bridge was made for.
    """
    bridge: Bridge = _taken(
        "bridge", folder, allow, in_width=in_width, out_width=out_width, grid=grid
    )
    return bridge


def merger_from(
    *,
    grid: Grid,
    grid_for: Callable[[Size], Grid],
    out_grid: Callable[[Grid], Grid],
    width: int,
    folder: str,
    allow: Sequence[str] = (),
) -> Merger:
    """The merger of the model in ``folder``, with its learned embeddings; see :func:`bridge_from`."""
    merger: Merger = _taken(
        "merger", folder, allow, grid=grid, grid_for=grid_for, out_grid=out_grid, width=width
    )
    return merger


def _taken(
    part: str, folder: str, allow: Sequence[str], *, dtype: str = "float32", **neighbours: Any
) -> Any:
    place = _model_folder(part, folder)
    node = model_node(place, allow=allow)[part]
    if torch.get_default_device().type == "meta":
        built = _build(part, node, place, neighbours)
        _check(built, part, place, neighbours)
    else:
        with parameters_on_meta():
            built = _build(part, node, place, neighbours)
        tie(built)
        files = _check(built, part, place, neighbours)
        check_types(built, files, prefix=f"{part}.")
        fill(built, _tensors(files, f"{part}."))
        built = converted(built, dtype=getattr(torch, dtype))
    note(built, Taken(part, str(folder), unmarked(node)))
    return built


def _model_folder(part: str, folder: str) -> Path:
    check_checkpoint(str(folder), f"{part}.folder")
    place = find_folder(folder)
    if not is_model_folder(place):
        advice = "give a folder that hdvl saved"
        if is_published(place):
            advice = f"convert it: hdvl convert path={folder} to=FOLDER"
        raise ValueError(
            f"{part}.folder must hold a model of hdvl, {str(folder)!r} does not; {advice}"
        )
    return place


def _build(part: str, node: Any, place: Path, neighbours: Mapping[str, Any]) -> Any:
    built = assemble(node, source=place, where=f"model.{part}")
    return from_factory(part, built, **neighbours) if neighbours else built


def _check(built: nn.Module, part: str, place: Path, neighbours: Mapping[str, Any]) -> list[Path]:
    """Check the names and shapes of the stored weights, and return the files that hold them."""
    files = find_shards(place)
    source = f"the {part} in {str(place)!r}"
    numbers = {name: value for name, value in neighbours.items() if not callable(value)}
    if numbers:
        listed = ", ".join(f"{name}={value}" for name, value in numbers.items())
        source += f", between parts with {listed},"
    shapes = {
        name.removeprefix(f"{part}."): shape
        for name, shape in read_shapes(files).items()
        if name.startswith(f"{part}.")
    }
    check_keys(built, shapes, source=source)
    return files


def _tensors(files: Sequence[Path], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in read_tensors(files, prefix=prefix):
        yield name.removeprefix(prefix), value
