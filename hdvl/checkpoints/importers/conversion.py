"""Loads a published model, or converts it to a native folder without holding the model in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdvl.checkpoints.importers import mapping as table
from hdvl.checkpoints.importers.base import CheckpointSource, Importer
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.registry import describe_source, importer_of
from hdvl.checkpoints.native import build_vlm, override, write_folder
from hdvl.checkpoints.nodes import Node, marked
from hdvl.checkpoints.shards import GB, NotFinite, write_shards
from hdvl.checkpoints.skeleton import fill
from hdvl.model import VLM


@dataclass(frozen=True)
class OpenedModel:
    """A published model whose layout was checked against hdvl's model. Its weights are not read yet."""

    importer: Importer
    published: Published
    node: Node
    vlm: VLM
    mapping: dict[str, TensorSource]
    dtype: torch.dtype


def open_published(
    source: str | Path | Mapping[str, str | Path],
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> OpenedModel:
    """Open and check a published model without reading its weights; see :func:`load_published`."""
    parts = _as_source(source)
    importer = importer_of(parts, name)
    config = importer.config(parts)
    published = importer.published(parts)
    node = Node(override(_node(importer, parts, config, published), marked(overrides or {})))
    vlm = build_vlm(node, source=describe_source(parts))
    mapping = importer.mapping(list(table.targets_of(vlm)), node, published)
    table.check(mapping, published, vlm, importer.ignorable(node))
    return OpenedModel(importer, published, node, vlm, mapping, dtype or published.common_dtype())


def load_published(
    source: str | Path | Mapping[str, str | Path],
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> VLM:
    """Load the model in a published folder, in evaluation mode. Only files in ``source`` are read.

    Args:
        source: the folder, or the parts of a model that was published in several parts.
        name: the name of the layout; None detects it.
        overrides: values of the model node to change, as in ``load_folder``.
        dtype: the type of all floating-point weights; None takes the most frequent stored type.

    Raises:
        ValueError: the layout is unknown, files are damaged or missing, the configuration disagrees with
            the weights, or keys do not fit; all faults are listed.
    """
    return load_opened(open_published(source, name, overrides=overrides, dtype=dtype), source)


def load_opened(opened: OpenedModel, source: str | Path | Mapping[str, str | Path]) -> VLM:
    """Read the weights of a published model that was opened before, see :func:`load_published`."""
    not_finite = NotFinite(describe_source(_as_source(source)))
    fill(
        opened.vlm, not_finite.passing(table.stream(opened.mapping, opened.published, opened.dtype))
    )
    not_finite.warn()
    return opened.vlm.eval()


def convert(
    source: str | Path | Mapping[str, str | Path],
    to: str | Path,
    name: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_shard: int = 4 * GB,
) -> Path:
    """Write a published model as a native folder, one tensor at a time, so that it needs little memory.

    Arguments and errors are those of :func:`load_published`. ``max_shard`` is the largest size in bytes of
    a written weight file.
    """
    opened = open_published(source, name, dtype=dtype)
    order = table.in_reading_order(opened.mapping, opened.published)
    layouts = {
        target: table.meta_tensor(opened.mapping[target], opened.published, opened.dtype)
        for target in order
    }

    def read(target: str) -> Tensor:
        return table.read_tensor(opened.mapping[target], opened.published, opened.dtype)

    def weights(folder: Path) -> None:
        write_shards(layouts, folder, max_bytes=max_shard, read=read)

    opened.vlm.eval()
    config = {"model": opened.node, "converted_from": opened.importer.name}
    return write_folder(opened.vlm, to, config, weights=weights, licence=opened.importer.licence)


def _node(
    importer: Importer, source: CheckpointSource, config: Mapping[str, Any], published: Published
) -> Node:
    """The importer's node. Errors that values of a wrong type cause become a ``ValueError``."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return importer.node(source, config, published)
    except (
        *(KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError),
        StrictDataclassError,
    ) as error:
        raise ValueError(
            f"configuration of {describe_source(source)} must be that of a {importer.name} model, a value in "
            f"it is absent or of another type: {type(error).__name__}: {error}"
        ) from error


def _as_source(source: str | Path | Mapping[str, str | Path]) -> CheckpointSource:
    if isinstance(source, Mapping):
        return {part: Path(path) for part, path in source.items()}
    return Path(source)
