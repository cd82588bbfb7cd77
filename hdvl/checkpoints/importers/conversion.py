"""From a published folder to a model in memory, or to a native folder without the model in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdvl.checkpoints.importers import mapping as table
from hdvl.checkpoints.importers.base import CheckpointSource, Importer
from hdvl.checkpoints.importers.mapping import From
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.registry import importer_of, said
from hdvl.checkpoints.native import build_vlm, override, write_folder
from hdvl.checkpoints.nodes import Node, marked
from hdvl.checkpoints.shards import GB, NotFinite, write_shards
from hdvl.checkpoints.skeleton import fill
from hdvl.model import VLM


@dataclass(frozen=True)
class Opened:
    """A published model, checked against hdvl's: nothing of its weights has been read yet."""

    importer: Importer
    published: Published
    node: Node
    vlm: VLM
    mapping: dict[str, From]
    dtype: torch.dtype


def open_published(
    source: str | Path | Mapping[str, str | Path],
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Opened:
    """Everything about a published model but its numbers; see :func:`load_published`."""
    parts = _as_source(source)
    importer = importer_of(parts, name)
    config = importer.config(parts)
    published = importer.published(parts)
    node = Node(override(_node(importer, parts, config, published), marked(overrides or {})))
    vlm = build_vlm(node, source=said(parts))
    mapping = importer.mapping(list(table.targets_of(vlm)), node, published)
    table.check(mapping, published, vlm, importer.ignorable(node))
    return Opened(importer, published, node, vlm, mapping, dtype or published.common_dtype())


def load_published(
    source: str | Path | Mapping[str, str | Path],
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> VLM:
    """The model in a published folder, in evaluation mode. Reads what lies there and nothing else.

    Args:
        source: the folder, or the parts of a model that was published in several.
        name: which layout it is; None recognises it.
        overrides: numbers of the model node to change, as of ``load_folder``.
        dtype: of all floating-point weights; None takes the one that most of them are stored in.

    Raises:
        ValueError: unknown layout, damaged or missing files, a configuration that disagrees with
            the weights, or keys that do not fit, all listed.
    """
    opened = open_published(source, name, overrides=overrides, dtype=dtype)
    odd = NotFinite(said(_as_source(source)))
    fill(opened.vlm, odd.passing(table.stream(opened.mapping, opened.published, opened.dtype)))
    odd.warn()
    return opened.vlm.eval()


def convert(
    source: str | Path | Mapping[str, str | Path],
    to: str | Path,
    name: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_shard: int = 4 * GB,
) -> Path:
    """Write a published model as a native folder, tensor by tensor: the model is never in memory.

    Arguments and errors are those of :func:`load_published`; ``max_shard`` is the most bytes of a
    written weight file.
    """
    opened = open_published(source, name, dtype=dtype)
    order = table.in_reading_order(opened.mapping, opened.published)
    layouts = {
        target: table.layout(opened.mapping[target], opened.published, opened.dtype)
        for target in order
    }

    def read(target: str) -> Tensor:
        return table.produce(opened.mapping[target], opened.published, opened.dtype)

    def weights(folder: Path) -> None:
        write_shards(layouts, folder, max_bytes=max_shard, read=read)

    opened.vlm.eval()
    config = {"model": opened.node, "converted_from": opened.importer.name}
    return write_folder(opened.vlm, to, config, weights=weights, licence=opened.importer.licence)


def _node(
    importer: Importer, source: CheckpointSource, config: Mapping[str, Any], published: Published
) -> Node:
    """The importer's node; whatever a value of a wrong kind leads to is one error."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return importer.node(source, config, published)
    except (
        *(KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError),
        StrictDataclassError,
    ) as error:
        raise ValueError(
            f"configuration of {said(source)} must be that of a {importer.name} model, a value in it is "
            f"absent or of another kind: {type(error).__name__}: {error}"
        ) from error


def _as_source(source: str | Path | Mapping[str, str | Path]) -> CheckpointSource:
    if isinstance(source, Mapping):
        return {part: Path(path) for part, path in source.items()}
    return Path(source)
