"""A model node that reads nothing outside its folder."""

import json
from collections.abc import Mapping
from typing import Any

from hdvl.checkpoints.known import LOAD_TOKENIZER
from hdvl.checkpoints.nodes import TARGET, unmarked
from hdvl.model import VLM
from hdvl.protocols import LLM
from hdvl.templates.node import node_of

TOKENIZER = "tokenizer"
"""Where the tokenizer's files lie in a model folder."""

_FROM_PRETRAINED, _FROM_CONFIG = ".from_pretrained", ".from_config"


def self_contained(node: Mapping[str, Any], vlm: VLM) -> dict[str, Any]:
    """The model ``node`` with every outside source of weights or tokens taken out.

    ``weights`` of any part becomes null (the folder's own weights are put in), and the LLM is
    described by its whole transformers configuration and the tokenizer in the folder. A template that
    was read from somewhere is written out.
    """
    stored: dict[str, Any] = _without_weights(node)
    stored["llm"] = _stored_llm(stored["llm"], vlm.llm)
    if _outside_paths(stored["template"], "template"):
        stored["template"] = node_of(vlm.template)
    reading = _outside_paths(stored, "model")
    if reading:
        raise ValueError(
            f"model must be rebuilt from its folder alone, but {', '.join(reading)} would be read; "
            "give that part a from_config, or its file a key named weights"
        )
    return stored


def _without_weights(node: Any) -> Any:
    if isinstance(node, Mapping):
        # Everything is plain here, so Hydra's way to turn it into plain values has no meaning.
        rest = {key: _without_weights(value) for key, value in node.items() if key != "_convert_"}
        return {**rest, "weights": None} if "weights" in rest and "_target_" in rest else rest
    return [_without_weights(item) for item in node] if isinstance(node, list) else node


def _stored_llm(node: Mapping[str, Any], llm: LLM) -> dict[str, Any]:
    target = str(node["_target_"])
    kept = {key: value for key, value in node.items() if key not in ("_target_", "path", "dtype")}
    files = {TARGET: LOAD_TOKENIZER, "path": TOKENIZER}
    return {
        "_target_": target.removesuffix(_FROM_PRETRAINED).removesuffix(_FROM_CONFIG) + _FROM_CONFIG,
        **kept,
        "config": transformers_numbers(llm),
        "tokenizer": None if llm.tokenizer is None else files,
    }


def transformers_numbers(llm: LLM) -> dict[str, Any]:
    """The whole transformers configuration of ``llm`` as plain data, without where it came from."""
    text: str = llm.model.config.to_json_string(use_diff=False)  # type: ignore[attr-defined]
    numbers: dict[str, Any] = json.loads(text)
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        numbers.pop(key, None)
    return dict(unmarked(numbers, "llm.config"))


def _outside_paths(node: Any, where: str) -> list[str]:
    if not isinstance(node, Mapping):
        return []
    reads = str(node.get("_target_", "")).endswith(_FROM_PRETRAINED) and "path" in node
    found = [f"{where}.path={node['path']}"] if reads else []
    for key, value in node.items():
        found += _outside_paths(value, f"{where}.{key}")
    return found
