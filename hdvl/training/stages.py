"""Splits the config of a run into one config for each stage. All functions work on plain data."""

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hdvl import plain
from hdvl.training.tuning import ADAPTED, MODULES

KEYS = ("tuning", "optimizer", "trainer", "data", "callbacks")


def split_stages(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the config of each stage, in order.

    Args:
        config: plain data with unresolved interpolations. ``config["stages"]`` is None (the config is
            the only stage) or a list of ``{name, tuning, optimizer, trainer, data, callbacks}``, each
            of which changes the config for its stage. The ``run_dir`` of a stage is a folder inside
            that of the run.

    Raises:
        ValueError: a stage has no name or the name of another stage, or a key does not exist.
    """
    base = {key: value for key, value in config.items() if key != "stages"}
    changes = _changes(config)
    if changes is None:
        return [deepcopy(base)]
    if not changes:
        raise ValueError("stages must be null or have at least one stage, got an empty list")
    names = [str(change.get("name")) for change in changes]
    for index, name in enumerate(names):
        if not re.fullmatch(r"[\w-]+", name) or name == "None" or names.index(name) != index:
            raise ValueError(
                f"stages[{index}].name must be letters, digits, - or _ and unlike the others, "
                f"got {name}"
            )
    stages = []
    for index, change in enumerate(changes):
        own = {key: value for key, value in change.items() if key != "name"}
        for key in own:
            if key not in KEYS:
                raise ValueError(f"a stage may change {', '.join(KEYS)}, stages[{index}] has {key}")
        stage = merge(base, own, f"stages[{index}]")
        stage["run_dir"] = f"{base['run_dir']}/{index + 1}-{names[index]}"
        stages.append(stage)
    return stages


def _changes(config: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    changes: Any = config.get("stages")
    if changes is None:
        return None
    if not isinstance(changes, list) or not all(isinstance(item, Mapping) for item in changes):
        raise ValueError(f"stages must be null or a list such as [{{name: align}}], got {changes}")
    return changes


def check_effect(config: Mapping[str, Any], given: Iterable[str]) -> None:
    """Refuse dotted keys of ``given`` that have no effect because every stage sets them again.

    Raises:
        ValueError: there is such a key.
    """
    changes = _changes(config) or ()
    for path in given:
        if path == "tuning" and changes and all(map(_sets_tuning, changes)):
            raise ValueError(
                "tuning has no effect, every stage sets that of every part; change stages.0.tuning and so "
                "on, or train without stages (stages=null)"
            )
        if changes and "." in path and all(_sets(change, path.split(".")) for change in changes):
            raise ValueError(
                f"{path} has no effect, every stage sets it; change stages.0.{path} and so on "
                f"(+stages.0.{path} with resume), or train without stages (stages=null)"
            )


def _sets_tuning(change: Any) -> bool:
    """Return whether a stage sets the tuning of all parts, so that nothing of another choice is left."""
    own = change.get("tuning") or {}
    return all(own.get(part, "lora") not in ADAPTED for part in MODULES)


def _sets(change: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(change, Mapping):
            return True  # the stage replaces the whole mapping
        if key not in change:
            return False
        change = change[key]
    return True


def merge(base: Mapping[str, Any], change: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``base`` with ``change``. Mappings are merged, everything else is replaced.

    A mapping with another ``_target_`` replaces the old one as a whole. A key that ``base`` lacks is an
    error, unless it is an argument of the ``_target_`` in the same mapping.
    """

    def refuse(where: str, keys: Sequence[str], base: Mapping[str, Any]) -> ValueError:
        there = ", ".join(base)
        return ValueError(f"{where}{keys[0]} is no key of the config, there is {there}")

    whole = plain.merge(
        base,
        change,
        replaces=plain.is_other_part,
        refuse=refuse,
        optional=_arguments,
        where=f"{where}.",
    )
    return deepcopy(whole)


def set_value(config: dict[str, Any], path: str, value: Any) -> None:
    """Change the value at a dotted ``path``, in place.

    ``stages.1.trainer.max_steps`` may be set whether or not that stage changed it before;
    :func:`split_stages` checks what a stage may change.

    Raises:
        ValueError: the path does not exist.
    """
    *parents, last = path.split(".")
    node: Any = config
    for depth, key in enumerate(parents):
        if isinstance(node, list):
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        elif isinstance(node, dict):
            node = node.setdefault(key, {}) if depth > 1 and _in_stage(parents) else node.get(key)
    known = isinstance(node, dict) and (last in node or last in _arguments(node))
    if not known and not (isinstance(node, dict) and _in_stage(parents)):
        raise ValueError(f"{path} is no key of the run's config")
    node[last] = value


def _in_stage(parents: Sequence[str]) -> bool:
    return len(parents) > 1 and parents[0] == "stages"


def _arguments(node: Mapping[str, Any]) -> set[str]:
    """Return the argument names of the ``_target_`` of ``node``; an empty set without one."""
    if "_target_" not in node:
        return set()
    module, _, name = node["_target_"].rpartition(".")
    return set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
