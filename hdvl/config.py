"""Composition of configurations and building of the objects that they describe.

This is the only module that calls ``instantiate`` of Hydra. It imports nothing else of the package.
"""

import difflib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
# In a wheel ``conf/`` is inside the package, in a checkout next to it.
CONF_DIR = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())

MOVED = {
    "hdvl.watching": "hdvl.callbacks",
    **{
        f"hdvl.training.{name}": f"hdvl.callbacks.{name}"
        for name in (
            *("audit", "checkpointing", "compiling"),
            *("feature_cache", "progress", "recompute"),
        )
    },
}
"""Modules of callbacks that configurations of earlier runs name, and the modules that hold them now."""


def compose(*overrides: str, config_name: str = "train", return_hydra: bool = False) -> Any:
    """Compose ``conf/{config_name}.yaml`` with command-line style ``overrides``.

    ``compose("model=xverse_v_13b", "llm=tiny")`` gives the same config as the command line would.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    options: dict[str, Any] = {
        "config_name": config_name,
        "return_hydra_config": return_hydra,
    }
    if _in_a_command():  # its search path may contain folders of the user
        return hydra_compose(overrides=list(overrides), **options)
    with _hydra_as_found(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra_compose(overrides=list(overrides), **options)


def _in_a_command() -> bool:
    """Return whether Hydra runs on the configuration of this package, not on that of another program."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    if not hydra.is_initialized():
        return False
    path = hydra.config_loader().get_search_path().get_path()
    return any(found.path.removeprefix("file://") == str(CONF_DIR) for found in path)


@contextmanager
def _hydra_as_found() -> Iterator[None]:
    """Reset Hydra's global state (program, version base), and restore it on exit."""
    from hydra.core.singleton import Singleton

    found = dict(Singleton._instances)
    for name in [kind for kind in found if kind.__name__ in ("GlobalHydra", "VersionBase")]:
        del Singleton._instances[name]
    try:
        yield
    finally:
        Singleton._instances.clear()
        Singleton._instances.update(found)


def build(node: Any, **kwargs: Any) -> Any:
    """Build the object that a config ``node`` (with ``_target_``) describes.

    Nested nodes are built first; lists and dicts are passed as plain Python values. ``node`` may be
    plain data too (:func:`to_plain`).

    Raises:
        ValueError: a value of the config is missing (``???``), a ``_target_`` does not exist or has moved,
            or a part rejects its arguments.
        ModuleNotFoundError: the module of a ``_target_`` needs another that is not installed.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, dict) and not kwargs:
        resolve(node)  # names what is missing
    try:
        if isinstance(node, dict):  # as a key of the node, the option costs no further copy
            return instantiate({**node, "_convert_": "all"}, **kwargs)
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        wrapped = error
    # Hydra wraps the error of a part; the original message is clearer.
    cause = wrapped.__cause__
    if cause is not None and str(wrapped).startswith("Error in call to target"):
        _check_partial(cause)
        kinds = ValueError | TypeError | OSError | ImportError | MemoryError
        if isinstance(cause, kinds) or "out of memory" in str(cause):
            raise cause
        raise ValueError(" ".join(str(cause).split()) or type(cause).__name__) from cause
    _check_imports(wrapped)
    _check_target(str(wrapped))
    raise ValueError(" ".join(str(wrapped).split()))


def _check_partial(cause: BaseException) -> None:
    """Raise a ``ValueError`` if a bridge or a merger was built before its dimensions were known."""
    found = re.match(
        r"(\w+)(?:\.__init__)?\(\) missing \d+ required [\w -]+ arguments?: (.+)", str(cause)
    )
    missing = re.findall(r"'(\w+)'", found[2]) if found else []
    given = [name for name in missing if name in _GIVEN]
    if isinstance(cause, TypeError) and found and given:
        *first, last = missing
        names = f"{', '.join(first)} and {last}" if first else last
        raise ValueError(
            f"{found[1]} needs {names}, which are known only when the whole model is built; the node of a "
            "bridge or a merger must have _partial_: true"
        ) from cause


_GIVEN = ("in_width", "out_width", "grid_for", "out_grid")
"""Arguments of bridges and mergers that :class:`hdvl.model.VLM` gives."""


def _check_imports(error: BaseException) -> None:
    """Raise the ``ModuleNotFoundError`` of a package that the module of a ``_target_`` needs."""
    target = re.match(r"Error (?:locating target|loading) '([\w.]+)'", str(error))
    cause: BaseException | None = error
    while target and cause is not None:
        name = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if name and not f"{target[1]}.".startswith(f"{name}."):
            raise cause
        cause = cause.__cause__ or cause.__context__


def _check_target(message: str) -> None:
    """Raise a ``ValueError`` if Hydra could not find a class; with its new name if it has moved."""
    missing = re.match(r"Error (?:locating target|loading) '([\w.]+)'", message)
    for old, new in MOVED.items():
        if missing and missing[1].startswith(f"{old}."):
            name = missing[1].removeprefix(old)
            raise ValueError(f"_target_ {old}{name} has moved, use {new}{name}")
    if missing:
        raise ValueError(f"_target_ {missing[1]} does not exist{_like_target(missing[1])}")


def _like_target(target: str) -> str:
    """Return the end of a message: the name in the same module most similar to a missing ``target``."""
    module, _, name = target.rpartition(".")
    try:
        names = dir(pkgutil.resolve_name(module))
    except (ImportError, AttributeError, ValueError):
        return f"; {module} cannot be imported"
    like = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {module}.{like[0]}?" if like else f"; {module} has no {name}"


def to_plain(node: Any) -> Any:
    """Return the config as plain dicts and lists with resolved interpolations, as checkpoints store it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def to_unresolved(node: Any) -> Any:
    """Return the config as plain dicts and lists, with its interpolations as text."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=False)


def resolve(node: Any, optional: Sequence[str] = ()) -> Any:
    """Return a config as plain data, with every interpolation replaced by its value.

    Args:
        node: the config, plain or not.
        optional: root keys below which values may be missing.

    Raises:
        ValueError: a value is missing (``???``) or refers to a key that does not exist; the message
            names the key and an example, or the choices that have it.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    config = node if OmegaConf.is_config(node) else OmegaConf.create(node)
    _refuse_missing(OmegaConf.to_container(config, resolve=False), optional)
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except InterpolationKeyError as error:
        raise ValueError(_absent(str(error.full_key), str(error.msg))) from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from error
    _refuse_missing(plain, optional)
    return plain


_EXAMPLES = {
    "path": "conversations.json",
    "llm.path": "Qwen/Qwen3-0.6B",
    "folder": "hdvl/small",
    "shards": "'shards/train-*.tar'",
    "local": "shards",
}


def _refuse_missing(plain: Any, optional: Sequence[str]) -> None:
    found = [key.removeprefix("model.") for key in _missing(plain, "")]
    keys = [key for key in dict.fromkeys(found) if key.partition(".")[0] not in optional]
    if keys:
        examples = []
        for key in keys:
            example = _EXAMPLES.get(key) or _EXAMPLES.get(key.rpartition(".")[2], "VALUE")
            examples.append(f"{key}={example}")
        raise ValueError(f"{' and '.join(keys)} must be given, such as {' '.join(examples)}")


def _missing(plain: Any, place: str) -> Iterator[str]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(plain, dict):
        pairs = plain.items()
    elif isinstance(plain, list):
        pairs = enumerate(plain)
    elif plain == "???":
        yield place
    for key, value in pairs:
        yield from _missing(value, f"{place}.{key}" if place else str(key))


def _absent(place: str, message: str) -> str:
    """Return a message on what to do if the value at ``place`` refers to a key that does not exist."""
    match = re.search(r"Interpolation key '([^']+)' not found", message)
    referred = match[1] if match else "a key"
    group, _, inner = referred.partition(".")
    place = place.removeprefix("model.")
    having = [f"{group}={name}" for name in _choices_with(group, inner)]
    choose = f"choose {' or '.join(having)}, or " if having else ""
    return (
        f"{place} is taken from {referred}, which this {group} does not have; {choose}give "
        f"{place}=VALUE"
    )


def _choices_with(group: str, key: str) -> list[str]:
    """Return the choices of a group that set ``key`` and do not derive from another choice."""
    import yaml

    found = []
    for file in sorted((CONF_DIR / group).glob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(node, dict) and key in node and "defaults" not in node:
            found.append(file.stem)
    return found


def from_plain(node: dict[str, Any]) -> Any:
    """Return a config from plain data, the inverse of :func:`to_plain`."""
    from omegaconf import OmegaConf

    return OmegaConf.create(node)


def given_words() -> list[str]:
    """Return the overrides of the running command, as Hydra parsed them; none outside of a command."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if not HydraConfig.initialized():
        return []
    # Not resolved, because an override may hold an interpolation.
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in words]


def given_values() -> dict[str, Any]:
    """Return the keys and values of the overrides of the running command."""
    return values_of(given_words())


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the keys and values of overrides."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(words))
    return {word.key_or_group: word.value() for word in parsed}
