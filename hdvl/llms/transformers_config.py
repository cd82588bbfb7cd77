"""Conversion of configurations of transformers to plain data."""

import json
from typing import Any

SOURCE_KEYS = (
    "_name_or_path",
    "_model_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
)
"""Keys about the origin of a model, which are left out."""


def plain_numbers(config: Any) -> dict[str, Any]:
    """Return the complete configuration as plain data, without keys about its origin."""
    numbers: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in numbers.items() if key not in SOURCE_KEYS}


def context_length(config: Any) -> int | None:
    """Return the most positions that a model can read; ``None`` if its configuration has no limit.

    For rotary rules that scale the positions (linear, dynamic) the configuration holds the trained length
    and a factor; for all others it holds the extended length.
    """
    text = config.get_text_config(decoder=True)
    name = "max_position_embeddings"  # families without a limit store this key too, but ignore it
    declared = {key for kind in type(text).__mro__ for key in getattr(kind, "__annotations__", {})}
    limit = getattr(text, name, None) if name in declared | set(text.attribute_map) else None
    if not limit or limit < 1:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = rope.get("rope_type") in ("linear", "dynamic")
    return int(limit * float(rope.get("factor") or 1.0)) if stretched else int(limit)


def check_hub_model(name: str) -> None:
    """Raise a ValueError if the hub, or what was downloaded from it, has no model called ``name``."""
    from transformers import AutoConfig

    if name.startswith((".", "/", "~")):
        raise ValueError(f"model folder must exist, got {name!r}; check the path")
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        reason = str(error).split(". ")[0]
        raise ValueError(
            f"path must be a model folder or a name on the hub, got {name!r}: there is no such folder, and "
            f"the hub gives none ({reason})"
        ) from error
