"""Makes a model node that reads nothing outside its folder."""

from collections.abc import Mapping
from typing import Any

from hdvl.checkpoints.known import LOAD_TOKENIZER
from hdvl.checkpoints.nodes import TARGET, unmarked
from hdvl.checkpoints.taken import with_own_nodes
from hdvl.model import VLM
from hdvl.plain import without_weights
from hdvl.templates.node import node_of
from hdvl.tilers.base import FROM_MODEL

TOKENIZER = "tokenizer"
"""The sub-folder of a model folder for the files of the tokenizer."""

_FROM_PRETRAINED = ".from_pretrained"


def self_contained(node: Mapping[str, Any], vlm: VLM) -> dict[str, Any]:
    """A copy of the model ``node`` without any source of weights or tokens outside the folder.

    ``weights`` of every part becomes null, since the weights of the folder are loaded. Parts that were
    taken from other folders are described by their own configurations. The LLM is replaced by its
    ``config_node`` with the tokenizer in the folder, a template that was read from a path is written out,
    and the tiler gets the numbers that it took from the encoder.
    """
    stored: dict[str, Any] = with_own_nodes(without_weights(node), vlm)
    files = {TARGET: LOAD_TOKENIZER, "path": TOKENIZER}
    tokenizer = None if vlm.llm.tokenizer is None else files
    stored["llm"] = {**_argument_data(vlm.llm.config_node()), "tokenizer": tokenizer}
    if _outside_paths(stored["template"], "template"):
        stored["template"] = node_of(vlm.template)
    for name in FROM_MODEL:
        if stored["tiler"].get(name, 0) is None and hasattr(vlm.tiler, name):
            stored["tiler"][name] = int(getattr(vlm.tiler, name))
    reading = _outside_paths(stored, "model")
    if reading:
        raise ValueError(
            f"model must be rebuilt from its folder alone, but {', '.join(reading)} would be read; "
            "give that part a from_config, or its file a key named weights"
        )
    return stored


def _argument_data(node: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` as plain data, after checking that data in its arguments cannot be taken for nodes."""
    return {
        key: value
        if isinstance(value, Mapping) and TARGET in value
        else unmarked(value, f"llm.{key}")
        for key, value in node.items()
    }


def _outside_paths(node: Any, where: str) -> list[str]:
    if not isinstance(node, Mapping):
        return []
    reads = str(node.get("_target_", "")).endswith(_FROM_PRETRAINED) and "path" in node
    found = [f"{where}.path={node['path']}"] if reads else []
    for key, value in node.items():
        found += _outside_paths(value, f"{where}.{key}")
    return found
