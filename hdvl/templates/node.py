"""Describes a template as a plain config node that rebuilds it without other files."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def node_of(value: Any) -> Any:
    """The ``_target_`` node of a template or box codec, as it is stored in a model folder.

    Templates that were read from a tokenizer are supported. Texts are stored without escaping: Hydra would
    resolve ``${...}`` in them, but loading a model folder does not.

    Raises:
        ValueError: a field has a value that is not plain data.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        return {
            "_target_": f"{kind.__module__}.{kind.__qualname__}",
            **{field.name: node_of(getattr(value, field.name)) for field in fields(value)},
        }
    if isinstance(value, Mapping):
        return {str(key): node_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [node_of(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a template must hold plain values, got {type(value).__name__}: {value!r}")
