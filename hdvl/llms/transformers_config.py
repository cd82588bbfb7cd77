"""What the configuration of a model of transformers says, as plain data and numbers."""

import json
from typing import Any

SOURCE_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys that say where a model came from, not what it is."""


def plain_numbers(config: Any) -> dict[str, Any]:
    """The whole configuration as plain data, without where it came from."""
    numbers: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in numbers.items() if key not in SOURCE_KEYS}


def context_length(config: Any) -> int | None:
    """The most positions that a model reads; ``None`` where its configuration names no limit.

    Rotary rules that stretch the positions (linear, dynamic) keep the trained length in the configuration,
    and a factor beside it; all others write the stretched length.
    """
    text = config.get_text_config(decoder=True)
    name = "max_position_embeddings"  # a family without it keeps what it is given, and ignores it
    declared = {key for kind in type(text).__mro__ for key in getattr(kind, "__annotations__", {})}
    limit = getattr(text, name, None) if name in declared | set(text.attribute_map) else None
    if not limit or limit < 1:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = rope.get("rope_type") in ("linear", "dynamic")
    return int(limit * float(rope.get("factor") or 1.0)) if stretched else int(limit)
