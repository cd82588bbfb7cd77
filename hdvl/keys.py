"""Checks keys and values of a command line against the configuration that they change.

An existing key may be set to a value of the same type. Other keys are added by ``+key=value``, but only if
they have an effect: as arguments of the class that a ``_target_`` names, as keys of a mapping that is such
an argument (``llm.config``, ``encoder.config``, ``data.train.weights``), or in a group that holds any number
of named objects (``callbacks``, ``logger``).
"""

import difflib
import inspect
import math
import pkgutil
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

from hdvl.allowed import shown
from hdvl.plain import TARGET, dotted_keys

NAMED_OBJECTS = ("callbacks", "logger")
"""Groups that hold objects under names that the user chooses."""

FRACTIONS = ("val_check_interval", "limit_val_batches", "warmup_steps")
"""Keys whose default values are integers, but which may also be fractions."""

GIVEN = {
    "bridge": ("in_width", "out_width", "grid"),
    "merger": ("grid", "grid_for", "out_grid", "width"),
}
"""Arguments of parts that hdvl sets itself, from the other parts of the model."""

SYNONYMS = {
    "batch": "data.batch_size",
    "ckpt": "checkpoint",
    "device": "trainer.accelerator",
    "epochs": "trainer.max_epochs",
    "file": "image",
    "gpus": "trainer.devices",
    "images": "image",
    "learning_rate": "optimizer.common.lr",
    "lora_rank": "tuning.lora.common.rank",
    "max_tokens": "generation.max_new_tokens",
    "output": "out",
    "picture": "image",
    "question": "prompt",
    "rank": "tuning.lora.common.rank",
    "steps": "trainer.max_steps",
    "text": "prompt",
    "tokens": "generation.max_new_tokens",
    "wd": "optimizer.common.weight_decay",
}
"""Names of other tools for keys of hdvl."""


def check_added(base: Mapping[str, Any], added: Mapping[str, Any], command: str) -> None:
    """Check that each key added by ``+`` has an effect.

    Args:
        base: the configuration without these keys, as plain data.
        added: a value for each dotted key.
        command: name of the command, for the message.

    Raises:
        ValueError: a key has no effect; the message suggests similar keys.
    """
    for key, value in added.items():
        refuse_given(key)
        if _first_unknown(base, key) is not None:
            raise ValueError(unknown_key(base, key, command))
        group, _, name = key.partition(".")
        if group in NAMED_OBJECTS and "." not in name and not isinstance(value, Mapping):
            raise ValueError(
                f"{key} must name what it is built by; set {key}.{TARGET}, got {value}"
            )


def refuse_given(key: str) -> None:
    """Raise a ``ValueError`` if ``key`` is an argument that hdvl sets itself."""
    if message := _given(key):
        raise ValueError(message)


def _given(key: str) -> str | None:
    """Return the error message for an argument that hdvl sets itself, and ``None`` for other keys."""
    part, _, name = key.removeprefix("model.").partition(".")
    if name not in GIVEN.get(part, ()):
        return None
    return (
        f"{key} must not be given, hdvl sets {', '.join(GIVEN[part])} of a {part} itself, from the other "
        "parts of the model; leave it out"
    )


def unknown_key(base: Mapping[str, Any], key: str, command: str, *, typed: bool = False) -> str:
    """Return the error message for a key that the configuration does not have.

    Args:
        base: the configuration, as plain data.
        key: the dotted key.
        command: name of the command.
        typed: whether a very similar name is suggested as a correction. The arguments of classes, which
            may be slow to import, are not looked up then.
    """
    if message := _given(key):
        return message
    stage = re.match(r"stages\.\d+\.", key)
    if stage and typed and base.get("stages"):
        return _unknown_of_stage(base, stage[0], key[stage.end() :], command)
    above, dot, last = key.rpartition(".")
    siblings = _at(base, above)[1] if dot else base
    siblings = siblings if isinstance(siblings, Mapping) else {}
    if typed and last in siblings:  # Hydra refuses a mapping whose keys are new
        return f"{key} does not have all keys of the given mapping; add them with +{key}={{...}}"
    near = difflib.get_close_matches(last, siblings, n=1, cutoff=0.85) if typed else []
    if near:
        return f"{key} is no key of hdvl {command}, did you mean {above}{dot}{near[0]}?"
    found = _first_unknown(base, key)
    if found is None:
        return f"{key} is not set in this configuration; add it with +{key}=VALUE"
    place, known, target = found
    if target is not None:
        name = place.rpartition(".")[2]
        return f"{place} must be an argument of {target}, {name} is not{similar(name, known)}"
    hint = " or ".join(_alike(base, key)[:3])
    return f"{key} is no key of hdvl {command}" + (
        f", did you mean {hint}?" if hint else f"; hdvl {command} --help lists them"
    )


def _unknown_of_stage(base: Mapping[str, Any], stage: str, key: str, command: str) -> str:
    """Return the message for a key of a stage, such as ``stages.0.``, which changes ``key`` of the config."""
    if _at(base, key)[0] is not None or _first_unknown(base, key) is None:
        return f"{stage}{key} is not set in this configuration; add it with +{stage}{key}=VALUE"
    message = unknown_key(base, key, command, typed=True)
    start, meant, hint = message.partition(", did you mean ")
    if not meant or " must be an argument of " in start:  # names of arguments are not keys
        return f"{stage}{message}"
    return f"{stage}{start}{meant}{stage}{hint.replace(' or ', f' or {stage}')}"


def similar(name: str, known: Sequence[str]) -> str:
    """Return the end of a message: the known names that are similar to ``name``, otherwise all of them."""
    like = difflib.get_close_matches(name, known, n=3)
    return f", did you mean {' or '.join(like)}?" if like else f"; it takes {', '.join(known)}"


def check_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check that each value has the type of the default in the configuration.

    Args:
        base: the configuration without these values, as plain data.
        values: a value for each dotted key. Interpolations and keys that ``base`` does not have are skipped.

    Raises:
        ValueError: a value has another type than its default, such as text instead of a number.
    """
    for key, value in values.items():
        parent, default, inside = _at(base, key)
        if parent is None or value is None or (isinstance(value, str) and "${" in value):
            continue
        name = key.rpartition(".")[2]
        is_integer = name not in FRACTIONS and (not inside or TARGET in parent)
        needed = _needed(default, value, is_integer=is_integer, lists=not inside)
        if isinstance(parent.get(TARGET), str) and _may_differ(default, value):
            needed = _needed_by_class(parent[TARGET], name, value)
        if needed:
            said = f"{key} must be {needed}, got {shown(value)}"
            inner = next(iter(default), None) if isinstance(default, Mapping) else None
            raise ValueError(f"{said}; set its keys, such as {key}.{inner}" if inner else said)


def is_empty(base: Mapping[str, Any], key: str) -> bool:
    """Return whether the value of ``key`` in the configuration is a mapping without keys."""
    return bool(_at(base, key)[1] == {})


def arguments_of(target: Callable[..., Any]) -> list[str] | None:
    """Return the names of the arguments of a class or function; ``None`` if it takes arbitrary ones."""
    named = _named_arguments(target)
    owner = getattr(target, "__self__", None)
    if named is None and isinstance(
        owner, type
    ):  # a classmethod that passes other arguments to its class
        own, others = inspect.signature(target).parameters.values(), _named_arguments(owner)
        named = (
            None if others is None else [p.name for p in own if p.kind != p.VAR_KEYWORD] + others
        )
    return None if named is None else list(dict.fromkeys(named))


def _named_arguments(target: Callable[..., Any]) -> list[str] | None:
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _first_unknown(base: Mapping[str, Any], key: str) -> tuple[str, list[str], str | None] | None:
    """Return the index of the first unknown name in ``key``, the known names there, and the class, if any,
    whose arguments they are."""
    if key.partition(".")[0] == "stages" and base.get("stages"):
        return None  # changes of other keys, which are checked when they are applied
    node: Any = base
    inside = False  # an argument of a class
    names = key.split(".")
    for depth, name in enumerate(names):
        if not isinstance(node, Mapping):
            return None if inside else (".".join(names[: depth + 1]), [], None)
        place = ".".join(names[: depth + 1])
        target = node.get(TARGET)
        inside = inside or isinstance(target, str)
        known = None if names[0] in NAMED_OBJECTS and depth == 1 else list(node)
        if isinstance(target, str):
            known = None if name.startswith("_") else arguments_of(pkgutil.resolve_name(target))
            part = names[depth - 1] if depth else ""
            known = known and [own for own in known if own not in GIVEN.get(part, ())]
        elif inside or (depth > 1 and not node):  # an empty mapping takes any names
            known = None
        if known is not None and name not in known:
            return place, known, target if isinstance(target, str) else None
        if name not in node:
            return None
        node = node[name]
    return None


def _alike(base: Mapping[str, Any], key: str) -> list[str]:
    """Return the keys of the configuration that ``key`` may mean, the best first."""
    known = [own for own in dotted_keys(base) if not own.startswith("model.")] + [
        f"model.{own}" for own in base.get("model") or () if own not in base
    ]
    last = key.rpartition(".")[2]
    meant = [SYNONYMS[last]] if SYNONYMS.get(last) in known else []
    same = [own for own in known if own.rpartition(".")[2] == last]
    shallow = sorted(same, key=lambda own: own.count("."))
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    by_last = {own.rpartition(".")[2]: own for own in reversed(known)}
    others = [by_last[name] for name in difflib.get_close_matches(last, by_last, n=3, cutoff=0.8)]
    return list(dict.fromkeys([*meant, *shallow, *close, *([] if shallow else others)]))


def _at(base: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any] | None, Any, bool]:
    """Return the mapping that has ``key``, its value, and whether it belongs to a node with a ``_target_``.

    The mapping is ``None`` if ``base`` does not have the key.
    """
    node: Any = base
    parent, inside = base, False
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None, None, inside
        inside = inside or TARGET in node
        parent, node = node, node[name]
    return parent, node, inside


def _needed(default: Any, value: Any, *, is_integer: bool, lists: bool) -> str | None:
    """Return a description of the required type, or ``None`` if ``value`` has the type of ``default``.

    Args:
        default: the value in the configuration.
        value: the value given.
        is_integer: whether an integer may be replaced only by another integer.
        lists: whether a list of numbers may be replaced only by another list.
    """
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        fraction = isinstance(default, int) and is_integer and not _is_whole(value)
        return "a whole number" if fraction else None
    if isinstance(default, Mapping) and not isinstance(value, Mapping):
        return "a mapping"
    numbers = isinstance(default, list) and any(not isinstance(item, str) for item in default)
    return "a list" if numbers and lists and not isinstance(value, list) else None


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value)


def _may_differ(default: Any, value: Any) -> bool:
    """Return whether the type cannot be decided by the default, but only by the annotation of the class."""
    if default is None:
        return isinstance(value, str)
    return isinstance(default, str) and isinstance(value, list | Mapping)


def _needed_by_class(target: str, name: str, value: Any) -> str | None:
    """Return a description of the required type if the annotation of an argument does not allow ``value``."""
    try:
        found = pkgutil.resolve_name(target)
        annotation = typing.get_type_hints(found).get(name)
        annotation = annotation or inspect.signature(found).parameters[name].annotation
    except (AttributeError, ImportError, KeyError, NameError, TypeError, ValueError):
        return None  # annotations that cannot be evaluated: the class itself reports wrong values
    union = isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = set(typing.get_args(annotation) if union else (annotation,)) - {NoneType}
    if not kinds or not kinds <= {int, float, bool, str} or isinstance(value, tuple(kinds)):
        return None
    names = {int: "a number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(sorted({names[kind] for kind in kinds}))
