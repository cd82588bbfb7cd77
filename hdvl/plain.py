"""Configurations as plain data (dicts, lists and values): merged, and their keys. Nothing is resolved."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy, deepcopy
from typing import Any

TARGET = "_target_"
"""The key under which a mapping names the class or function that it is built by."""


def is_part(value: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether ``value`` names what it is built by."""
    return TARGET in value


def is_other_part(value: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether ``value`` is built by something else than ``old``."""
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
    """A copy of ``node`` with ``changes``: mappings are merged, all else is replaced.

    Args:
        node: plain data. A mapping of another class, such as a ``Node``, stays of its class.
        changes: the keys to change, with their new values.
        replaces: whether a mapping (first) takes the place of an old one (second) as a whole.
        refuse: gives the error for keys that a mapping does not have, of its place with a dot behind it,
            the keys, and the mapping.
        optional: the keys that a mapping may have besides those that it has.
        where: the place of ``node`` in a whole, with a dot behind it.
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
    """The dotted key of every value and mapping; items of lists by their number.

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
    """(dotted key, value) of each value in a config; lists of mappings are numbered.

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
    """A model node whose parts read no weights: only configurations and tokenizers.

    Language models read none on the ``meta`` device. Hydra's ``_convert_``, which says how values become
    plain, has no meaning here and is left out.
    """
    if isinstance(node, list):
        return [without_weights(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    plain = {key: without_weights(value) for key, value in node.items() if key != "_convert_"}
    if TARGET in plain and "weights" in plain:
        plain["weights"] = None
    return plain
