"""Records which parts of a model were taken from another model folder, and with which configuration.

A part keeps its own configuration, so that a model that holds it is saved without its source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hdvl.plain import TARGET

SOURCES = {f"hdvl.checkpoints.{part}_from": part for part in ("encoder", "bridge", "merger", "llm")}
"""Functions that take a part from a folder, by the name that configurations have for them."""

_NOTE = "taken_from"


@dataclass(frozen=True)
class Taken:
    """Where a part was taken from.

    Attributes:
        part: ``encoder``, ``bridge``, ``merger`` or ``llm``.
        folder: the folder as it was given.
        node: the plain configuration that builds the part without its weights.
    """

    part: str
    folder: str
    node: Mapping[str, Any]


def note(module: nn.Module, taken: Taken) -> None:
    """Remember where ``module`` was taken from."""
    setattr(module, _NOTE, taken)


def with_own_nodes(node: Any, model: nn.Module) -> Any:
    """A copy of the plain ``node`` of ``model`` in which parts from other folders have their own nodes."""
    found = [getattr(module, _NOTE, None) for module in model.modules()]
    nodes = {(taken.part, taken.folder): taken.node for taken in found if taken is not None}
    return _replaced(node, nodes)


def _replaced(node: Any, nodes: Mapping[tuple[str, str], Mapping[str, Any]]) -> Any:
    if isinstance(node, list):
        return [_replaced(item, nodes) for item in node]
    if not isinstance(node, Mapping):
        return node
    part = SOURCES.get(str(node.get(TARGET)))
    if part is None:
        return {key: _replaced(value, nodes) for key, value in node.items()}
    return dict(nodes[part, str(node["folder"])])
