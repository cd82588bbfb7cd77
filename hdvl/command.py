"""How each command runs: words to config, config to plain data, and every mistake to one line."""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hdvl.config import CONF_DIR, compose, resolve
from hdvl.overrides import check_renamed, keys_of, literal_text, typed_overrides
from hdvl.plain import dotted_keys

PART_GROUPS = ("tiler", "encoder", "bridge", "merger", "llm", "template")
_TRACE = "HYDRA_FULL_ERROR"


def command(name: str, run: Callable[[dict[str, Any]], object], *, resolved: bool = True) -> None:
    """Run the command whose primary config is ``name`` with the words of ``sys.argv``.

    ``run`` gets the config as plain data, with its interpolations only if not ``resolved``. What the
    user got wrong ends the process with exit code 1 and one line; with ``HYDRA_FULL_ERROR=1`` in the
    environment the trace is shown too.
    """
    import hydra

    words, trace = sys.argv[1:], bool(os.environ.get(_TRACE))

    def task(config: Any) -> None:
        _set_trace(trace)  # for the processes that this one starts
        try:
            with exit_with_message(name, trace=trace):
                _check_words(name, config)
                run(plain_config(config, words, resolved=resolved))
        finally:
            os.environ[_TRACE] = "1"  # the next job of a sweep is composed as the first was

    task.__module__ = f"hdvl.{name}"
    start = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(task)
    os.environ[_TRACE] = "1"  # Hydra hands its errors on, rather than print them
    try:
        with exit_with_message(name, trace=trace):
            _check_renamed(words)
            sys.argv[1:] = typed_overrides(words)
            start()
    finally:
        _set_trace(trace)


def plain_config(config: Any, words: Sequence[str], *, resolved: bool) -> dict[str, Any]:
    """A composed config as plain data, its free text as it was typed in ``words``."""
    from omegaconf import OmegaConf

    text = literal_text(words)
    plain: Any = (
        resolve(config, optional=list(text))
        if resolved
        else OmegaConf.to_container(config, resolve=False)
    )
    return {**plain, **{key: value for key, value in text.items() if key in plain}}


@contextmanager
def exit_with_message(name: str, *, trace: bool = False) -> Iterator[None]:
    """What inputs and parts say against each other ends a command: exit code 1 with the reason alone.

    With ``trace`` it is shown where the error came from, too.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (
        ValueError,
        TypeError,
        OSError,
        ImportError,
        MemoryError,
        HydraException,
        OmegaConfBaseException,
    ) as error:
        if trace:
            import traceback

            traceback.print_exc()
        sys.exit(f"hdvl {name.replace('_', ' ')}: {reason_of(error, name)}")


def reason_of(error: BaseException, name: str) -> str:
    """What ``error`` says, on one line."""
    text = str(error) or type(error).__name__
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], name)
    choice = re.match(r"(?:In '[^']*': )?Could not find '([\w.-]+)/([^']+)'", text)
    if choice and (CONF_DIR / choice[1]).is_dir():
        choices = sorted(file.stem for file in (CONF_DIR / choice[1]).glob("*.yaml"))
        return f"{choice[1]} must be one of {', '.join(choices)}, got {choice[2]}"
    return " ".join(text.split())


def check_arguments(plain: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse dotted ``keys`` that name an argument which the class or function beside it lacks.

    Raises:
        ValueError: there is such a key; the message names those that are like it.
    """
    for key in keys:
        node: Any = plain
        names = key.split(".")
        for depth, name in enumerate(names):
            if not isinstance(node, Mapping) or name not in node:
                break
            known = _arguments(node)
            if known is not None and name not in known and not name.startswith("_"):
                place = ".".join([*names[:depth], name])
                raise ValueError(
                    f"{place} must be an argument of {node['_target_']}, {name} is none"
                    f"{_like(name, known)}"
                )
            node = node[name]


def _arguments(node: Mapping[str, Any]) -> list[str] | None:
    """The names that the ``_target_`` of ``node`` takes; None without one, or if it takes any."""
    from hydra.utils import get_object

    if not isinstance(node.get("_target_"), str):
        return None
    target = get_object(node["_target_"])
    named = _named_arguments(target)
    owner = getattr(target, "__self__", None)
    if named is None and isinstance(owner, type):  # a classmethod that hands the rest on
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


def _check_words(name: str, config: Any) -> None:
    """Refuse words that would have no effect, or that no part knows."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    chosen = dict(keys_of(given))
    if "model" in chosen and "experiment" in chosen:
        _check_model(name, given, chosen, HydraConfig.get().runtime.choices)
    added = [key for key, _ in keys_of([word for word in given if word.startswith("+")])]
    if added:
        plain: Any = OmegaConf.to_container(config, resolve=False)
        check_arguments(plain, added)


def _check_model(
    name: str, given: Sequence[str], chosen: Mapping[str, str], choices: Mapping[str, Any]
) -> None:
    """An experiment chooses its parts after ``model=`` did: where they differ, one would be dropped."""
    without = [word for word in given if not re.match(r"\+*experiment=", word)]
    wanted = compose(*without, config_name=name, return_hydra=True).hydra.runtime.choices
    silenced = [part for part in PART_GROUPS if choices.get(part) != wanted.get(part)]
    if silenced:
        parts = " ".join(f"{part}={wanted[part]}" for part in silenced)
        raise ValueError(
            f"model={chosen['model']} must not stand beside experiment={chosen['experiment']}, whose "
            f"file sets {', '.join(silenced)} itself; leave one out, or choose the parts: {parts}"
        )


def _check_renamed(words: Sequence[str]) -> None:
    for key, _ in keys_of(words):
        check_renamed(key)


def _unknown_key(key: str, name: str) -> str:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(compose(config_name=name), resolve=False)
    known = list(dotted_keys(plain))
    last = key.rpartition(".")[2]
    same = [own for own in known if own.rpartition(".")[2] == last]
    like = same or difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    hint = f", did you mean {' or '.join(like[:3])}?" if like else ""
    return f"{key} is no key of the config{hint} (+{key}=... adds one)"


def _like(name: str, known: Sequence[str]) -> str:
    like = difflib.get_close_matches(name, known, n=3)
    return f", did you mean {' or '.join(like)}?" if like else f"; it takes {', '.join(known)}"


def _set_trace(shown: bool) -> None:
    if shown:
        os.environ[_TRACE] = "1"
    else:
        os.environ.pop(_TRACE, None)
