"""Options that accept one item or several."""

from collections.abc import Iterable
from typing import Any


def one_or_several(value: Any, option: str) -> tuple[str, ...]:
    """Return ``value`` as a tuple of strings; a single string becomes one item.

    >>> one_or_several("q_proj", "targets")
    ('q_proj',)

    Raises:
        TypeError: it is neither a string nor a sequence of strings; ``option`` is named.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, dict | bytes):
        raise TypeError(f"{option} must be a string or a list of strings, got {value!r}")
    items = tuple(value)
    if not all(isinstance(item, str) for item in items):
        raise TypeError(f"{option} must be a string or a list of strings, got {list(items)!r}")
    return items
