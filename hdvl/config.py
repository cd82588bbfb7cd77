"""Where the configuration lies, how it is composed, and the only ``instantiate`` of the project.

Knows Hydra and nothing of hdvl.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
# In a wheel ``conf/`` lies inside the package, in a checkout (editable or bare) beside it.
CONF_DIR = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


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
    if _in_a_command():  # whose search path may have folders of the user's
        return hydra_compose(overrides=list(overrides), **options)
    with _hydra_as_found(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra_compose(overrides=list(overrides), **options)


def _in_a_command() -> bool:
    """Whether Hydra is running on the configuration of this package, not on that of another program."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    if not hydra.is_initialized():
        return False
    path = hydra.config_loader().get_search_path().get_path()
    return any(found.path.removeprefix("file://") == str(CONF_DIR) for found in path)


@contextmanager
def _hydra_as_found() -> Iterator[None]:
    """Hydra's state (which program runs, which version it is compatible with) is put back."""
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

    Nested nodes are built first; lists and dicts arrive as plain Python values. ``node`` may be plain
    itself (:func:`to_plain`).

    Raises:
        ValueError: a value of the config is missing (``???``), or what a part says against its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, dict) and not kwargs:
        resolve(node)  # names what is missing
    try:
        if isinstance(node, dict):  # said inside it, the option costs no further copy of the node
            return instantiate({**node, "_convert_": "all"}, **kwargs)
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        wrapped = error
    # Hydra wraps what a part said; the part said it better.
    said = isinstance(wrapped.__cause__, ValueError | TypeError | OSError | ImportError)
    if said and str(wrapped).startswith("Error in call to target"):
        raise wrapped.__cause__  # type: ignore[misc]
    raise ValueError(" ".join(str(wrapped).split()))


def to_plain(node: Any) -> Any:
    """The config as plain dicts and lists, interpolations resolved: what a checkpoint stores."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def resolve(node: Any, optional: Sequence[str] = ()) -> Any:
    """A config, plain or not, as plain data with every interpolation replaced by its value.

    Args:
        node: the config.
        optional: keys below which values may be missing.

    Raises:
        ValueError: a value is missing (``???``) or refers to a key that is not there; the message
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
    """What to do where the value at ``place`` is that of a key that is not there."""
    found = re.search(r"Interpolation key '([^']+)' not found", message)
    wanted = found[1] if found else "a key"
    group, _, inner = wanted.partition(".")
    place = place.removeprefix("model.")
    having = [f"{group}={name}" for name in _choices_with(group, inner)]
    choose = f"choose {' or '.join(having)}, or " if having else ""
    return (
        f"{place} is taken from {wanted}, which this {group} does not have; {choose}give "
        f"{place}=VALUE"
    )


def _choices_with(group: str, key: str) -> list[str]:
    """The choices of a group in which ``key`` stands, those that the others are made from alone."""
    import yaml

    found = []
    for file in sorted((CONF_DIR / group).glob("*.yaml")):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(node, dict) and key in node and "defaults" not in node:
            found.append(file.stem)
    return found


def from_plain(node: dict[str, Any]) -> Any:
    """The inverse of :func:`to_plain`."""
    from omegaconf import OmegaConf

    return OmegaConf.create(node)


def given_words() -> list[str]:
    """The overrides that a running command was given, as Hydra read them; none outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if not HydraConfig.initialized():
        return []
    # As they were written: a word may hold an interpolation.
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in words]


def given_values() -> dict[str, Any]:
    """The keys and values of :func:`given_words`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = OverridesParser.create().parse_overrides(given_words())
    return {word.key_or_group: word.value() for word in words}
