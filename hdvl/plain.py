"""Functions on configurations as plain data (dicts, lists and values), without resolving interpolations."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy, deepcopy
from typing import Any

TARGET = "_target_"
"""The key of a node that names the class or function that builds it."""


def is_part(value: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return whether ``value`` is a node with a ``_target_``."""
    return TARGET in value


def is_other_part(value: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return whether ``value`` has another ``_target_`` than ``old``."""
    return TARGET in value and value[TARGET] != old.get(TARGET)


def merge(
    node: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    replaces: Callable[[Mapping[str, Any], Mapping[str, Any]], bool],
    refuse: Callable[[str, list[str], Mapping[str, Any]], Exception],
    optional: Callable[[Mapping[str, Any]], Collection[str]] = lambda _: (),
    where: str = "",
) -> dict[str, Any]:
    """Return a copy of ``node`` with ``changes``: mappings are merged, other values are replaced.

    Args:
        node: plain data. Mappings of other classes, such as ``Node``, keep their class.
        changes: the keys to change, with their new values.
        replaces: returns whether a new mapping (first argument) replaces the old one (second argument)
            instead of being merged with it.
        refuse: returns the error for unknown keys, given the dotted key of the mapping with a final dot,
            the unknown keys, and the mapping.
        optional: keys that every mapping may have in addition to its own.
        where: the dotted key of ``node``, with a final dot.
    """
    unknown = [key for key in changes if key not in node]
    if unknown:
        known = optional(node)
        if unknown := [key for key in unknown if key not in known]:
            raise refuse(where, unknown, node)
    merged = dict(node) if not isinstance(node, dict) else copy(node)
    for key, value in changes.items():
        old = node.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not replaces(value, old):
            merged[key] = merge(
                old,
                value,
                replaces=replaces,
                refuse=refuse,
                optional=optional,
                where=f"{where}{key}.",
            )
        else:
            merged[key] = deepcopy(value)
    return merged


def dotted_keys(config: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted key of every value and mapping; items of lists are numbered.

    >>> list(dotted_keys({"llm": {"layers": 2}, "stages": [{"name": "all"}]}))
    ['llm', 'llm.layers', 'stages', 'stages.0', 'stages.0.name']
    """
    pairs: Iterable[tuple[Any, Any]] = config.items() if isinstance(config, Mapping) else ()
    if isinstance(config, list):
        pairs = enumerate(config)
    for key, value in pairs:
        yield f"{place}{key}"
        yield from dotted_keys(value, f"{place}{key}.")


def flatten(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each value in a config; mappings in lists are numbered.

    >>> dict(flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3, 4]}))
    {'a.b': 1, 'c.0.d': 2, 'e': [3, 4]}
    """
    if isinstance(node, Mapping) and node:
        pairs = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list) and node and all(isinstance(item, Mapping) for item in node):
        pairs = [(str(number), item) for number, item in enumerate(node)]
    else:
        yield place, node
        return
    for key, value in pairs:
        yield from flatten(value, f"{place}.{key}" if place else key)


def without_weights(node: Any) -> Any:
    """Return a model node whose parts read only configurations and tokenizers, but no weights.

    Language models read no weights on the ``meta`` device. Hydra's option ``_convert_`` is removed, because
    it has no effect here.
    """
    if isinstance(node, list):
        return [without_weights(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    plain = {key: without_weights(value) for key, value in node.items() if key != "_convert_"}
    if TARGET in plain and "weights" in plain:
        plain["weights"] = None
        if "rename" in plain:
            plain["rename"] = None
    return plain
