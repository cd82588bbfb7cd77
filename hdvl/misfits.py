"""All misfits between the parts of a composition at once, with the overrides that mend them.

The check of a model ends at the first two parts that do not fit together, and its message ends with an
override that mends them. Here the override is applied and the model is checked again, until it is right.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import yaml

from hdvl.config import compose, resolve, to_plain
from hdvl.meta import on_meta
from hdvl.plain import merge

MOST = 8
"""The number of misfits after which the search ends."""

_OVERRIDE = re.compile(r"\b(tiler|encoder|bridge|merger)((?:\.\w+)*)=([\w.-]+)")


@contextmanager
def reported_together(model: Any) -> Iterator[None]:
    """Context that builds the model of the config node ``model``.

    Raises:
        ValueError: parts do not fit together. If there are several misfits, the message has all of them,
            and the overrides after which the model can be built.
    """
    try:
        yield
    except ValueError as error:
        plain = model if isinstance(model, dict) else resolve(model)
        messages, overrides = misfits(plain, str(error))
        if len(messages) < 2 or not overrides:
            raise
        lines = [f"{number}. {text}" for number, text in enumerate(messages, 1)]
        words = " ".join(f"{key}={value}" for key, value in overrides.items())
        raise ValueError(
            "\n  ".join(
                [f"{len(messages)} misfits between parts:", *lines, f"all are mended by: {words}"]
            )
        ) from error


def misfits(model: Mapping[str, Any], first: str) -> tuple[list[str], dict[str, str]]:
    """Return the messages of all misfits of ``model``, and the overrides that mend them together.

    Without overrides, a misfit was met that none of them mends.

    Args:
        model: the resolved config of a model.
        first: the message of the first misfit.
    """
    node, messages, overrides = deepcopy(dict(model)), [first], dict[str, str]()
    while len(messages) <= MOST:
        found = mending(messages[-1])
        if found is None or found in overrides.items():
            break
        overrides = with_override(overrides, *found)
        try:
            node = overridden(node, *found)
            on_meta(node)
        except ValueError as error:
            messages.append(str(error))
        else:
            return messages, overrides
    return messages, {}


def with_override(overrides: Mapping[str, str], key: str, value: str) -> dict[str, str]:
    """Return ``overrides`` with one more, without those of a part that it replaces.

    >>> with_override({"merger.newline": "false"}, "merger", "concat")
    {'merger': 'concat'}
    """
    kept = {known: value for known, value in overrides.items() if not known.startswith(f"{key}.")}
    return {**kept, key: value}


def mending(message: str) -> tuple[str, str] | None:
    """Return key and value of the first override that a message suggests at its end.

    >>> mending("tiler.tile_size=100 must equal 224; set tiler.tile_size=224 or encoder.tile_size=100")
    ('tiler.tile_size', '224')
    """
    found = _OVERRIDE.search(message.rpartition("; ")[2])
    return None if found is None else (found[1] + found[2], found[3].rstrip("."))


def overridden(model: Mapping[str, Any], key: str, value: str) -> dict[str, Any]:
    """Return the config of a model with the choice of a part (``merger=concat``) or one value changed.

    Raises:
        ValueError: the part has no such key or choice.
    """
    part, _, path = key.partition(".")
    if not path:
        return {**model, part: to_plain(compose(f"{key}={value}", config_name="tile")[part])}
    changes: Any = yaml.safe_load(value)
    for name in reversed(path.split(".")):
        changes = {name: changes}
    return {**model, part: merge(model[part], changes, replaces=_never, refuse=_refused)}


def _never(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    return False


def _refused(where: str, keys: list[str], node: Mapping[str, Any]) -> ValueError:
    return ValueError(f"{where}{keys[0]} is no key of the part")
