"""Runs commands: composes the config from the arguments, and prints errors of the user as one line."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from traceback import print_exception
from types import TracebackType
from typing import Any

from hdvl import config as configs
from hdvl.allowed import checked, kinds_of
from hdvl.catalogue import primary
from hdvl.config import CONF_DIR, resolve
from hdvl.extras import advice
from hdvl.inputs import check_inputs
from hdvl.keys import check_added, check_values, is_empty, similar, unknown_key
from hdvl.overrides import (
    LIST_GROUPS,
    REQUIRED_GROUPS,
    check_renamed,
    check_words,
    for_checkpoint,
    keys_of,
    literal_text,
    split_options,
    typed_overrides,
)

_TRACE = "HYDRA_FULL_ERROR"

_SLOW = (
    "chat convert data_bench data_lint demo evaluate export infer parity plan serve train".split()
)
"""Commands that import torch and models, which takes several seconds."""

OF_LIBRARIES = {"MisconfigurationException", "SafetensorError", "YAMLError", "BadZipFile"}
"""Names of exceptions of libraries for wrong input that have no common base class."""


def command(
    name: str,
    run: Callable[[dict[str, Any]], object],
    *,
    resolved: bool = True,
    checkpoint: str | None = None,
) -> None:
    """Run the command whose primary config is ``name`` with the arguments in ``sys.argv``, or print its help.

    An error of the user ends the process with exit code 1 and one line on standard error. With
    ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown too.

    Args:
        name: the command, with ``_`` instead of spaces.
        run: called with the config as plain data; its result is passed to a sweeper of Hydra.
        resolved: whether the interpolations of the config are replaced by their values.
        checkpoint: the key of the checkpoint whose parts can be changed by single values
            (:func:`hdvl.overrides.for_checkpoint`); ``None`` if the command loads no checkpoint.
    """
    words, trace = sys.argv[1:], bool(os.environ.get(_TRACE))
    if {"-h", "--help"} & set(words):
        from hdvl.help import help_text

        print(help_text(name))
        return
    import hydra

    changed, unchecked = for_checkpoint(words, checkpoint) if checkpoint else (words, [])

    def task(config: Any) -> object:
        _set_trace(trace)  # for the processes that this one starts
        try:
            with exit_with_message(name, trace=trace):
                _check_given(name, unchecked)
                plain = checked(name, plain_config(config, words, resolved=resolved))
                check_inputs(plain)
                _say_loading(name)
                return run(plain)
        finally:
            os.environ[_TRACE] = "1"  # the next job of a sweep is composed as the first was

    task.__module__ = f"hdvl.{name}"
    start = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(task)
    os.environ[_TRACE] = "1"  # Hydra raises its errors then, instead of printing them
    try:
        with exit_with_message(name, trace=trace):
            _check_sections(name, words)
            check_words(words, groups())
            for key, _ in keys_of(words):
                check_renamed(key)
            given = with_any_keys(name, changed)
            options, overrides = split_options(typed_overrides(given))
            sys.argv[1:] = [*options, *overrides]
            start()
    finally:
        _set_trace(trace)


def compose(*overrides: str, config_name: str = "train", return_hydra: bool = False) -> Any:
    """Compose the config of a command from command-line style ``overrides``.

    ``compose("model=xverse_v_13b", "llm=tiny")`` returns the config that ``hdvl train model=xverse_v_13b
    llm=tiny`` would have.

    Args:
        overrides: choices of groups (``encoder=timm``) and values of keys (``bridge.depth=3``).
        config_name: the command: ``train``, ``infer``, ``plan``, ...
        return_hydra: whether to return Hydra's own node too, under ``hydra``.

    Returns:
        An ``omegaconf.DictConfig``.

    Raises:
        ValueError: an override has no effect in this config; the message names what is like it.
    """
    from hydra.errors import HydraException

    for word in overrides:
        if word.startswith("-"):
            raise ValueError(
                f"overrides must be group=choice or key=value, got the option {word!r}; a folder of your own "
                'choices is given by compose("hydra.searchpath=[DIR]", ...)'
            )
    words = with_any_keys(config_name, overrides)
    try:
        return configs.compose(*words, config_name=config_name, return_hydra=return_hydra)
    except HydraException as error:
        raise ValueError(reason_of(error, config_name, overrides)) from error


def with_any_keys(name: str, words: Sequence[str]) -> list[str]:
    """Return ``words`` with ``++`` before each mapping for a key whose default is an empty mapping.

    Such a key takes any names, but Hydra refuses names that the default does not have.
    """
    given = [key for key, value in keys_of(words) if value.startswith("{") and "." in key]
    if not given:
        return list(words)
    base = _base(name, words)
    empty = [key for key in given if is_empty(base, key)]
    return [f"++{word}" if word.partition("=")[0] in empty else word for word in words]


def groups() -> dict[str, list[str]]:
    """Return the choices of each config group."""
    folders = sorted(path for path in CONF_DIR.iterdir() if path.is_dir())
    return {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}


def plain_config(config: Any, words: Sequence[str], *, resolved: bool) -> dict[str, Any]:
    """Return a composed config as plain data, with free text exactly as it was typed in ``words``."""
    from omegaconf import OmegaConf

    text = literal_text(words)
    plain: Any = (
        resolve(config, optional=list(text))
        if resolved
        else OmegaConf.to_container(config, resolve=False)
    )
    return {**plain, **{key: value for key, value in text.items() if key in plain}}


class exit_with_message:
    """Context that ends the process with exit code 1 and one line after an error of the user in its body.

    These are the errors that inputs and parts raise (``ValueError``, ``OSError``, ...), those of Hydra, those
    of libraries in ``OF_LIBRARIES``, and errors of torch about devices. Other errors are not caught.

    Args:
        name: the command, for the line.
        trace: whether to show the traceback too.
    """

    def __init__(self, name: str, *, trace: bool = False) -> None:
        self.name, self.trace = name, trace

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or not _is_mistake(error):
            return
        if self.trace:
            print_exception(error)
        sys.exit(f"hdvl {self.name.replace('_', ' ')}: {reason_of(error, self.name)}")


def _is_mistake(error: Exception) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    kinds = (ValueError, TypeError, OSError, ImportError, MemoryError)
    if isinstance(error, (*kinds, HydraException, OmegaConfBaseException)):
        return True
    names = {kind.__name__ for kind in type(error).mro()}
    return bool(OF_LIBRARIES & names) or _of_device(error) is not None


def reason_of(error: Exception, name: str, words: Sequence[str] | None = None) -> str:
    """Return the message of ``error`` on one line.

    Args:
        error: what composing or running the command raised.
        name: the command.
        words: the overrides; ``None`` takes those of this process's command line.
    """
    words = sys.argv[1:] if words is None else words
    text = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and (said := advice(error, name.replace("_", " "))):
        return said
    if found := re.match(r"Could not override '([^']+)'", text):
        return _unknown(found[1].partition("@")[0], name, words)
    if found := re.match(r"Index '(\w+)' \(str\) is not an int", text):
        place = next((key for key, _ in keys_of(words) if f"stages.{found[1]}" in key), None)
        if place is not None:
            right = place.lstrip("+").replace("stages.", "stages.0.", 1)
            return f"{place} must name a stage by its number, did you mean {right}?"
    if found := re.match(r"Could not delete from config\. '([^']+)' does not exist", text):
        base = _base(name, words)
        node: Any = base
        *above, last = found[1].split(".")
        for key in above:
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
        return f"~{found[1]} must be a key of hdvl {name}{similar(last, list(node))}"
    if found := re.match(r"Multiple values for ([\w/]+)\. To override", text):
        return f"{found[1]} has a choice already; write {found[1]}=... without +"
    if found := re.match(r"Error merging override '?([\w.]+)=(.*)", text.splitlines()[0]):
        key, kind = found[1], kinds_of(name).get(found[1])
        return f"{key} must be {kind.said if kind else 'a mapping'}, got {found[2]}"
    choice = re.match(r"(?:In '[^']*': )?Could not find '([\w.-]+)/([^']+)'", text)
    if choice and choice[1] in groups():
        names = groups()[choice[1]]
        like = similar(choice[2], names).partition(";")[0]
        return f"{choice[1]} must be one of {', '.join(names)}, got {choice[2]}{like}"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {error.filename}; check the path"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename} may not be read or written by this user"
    return _of_device(error) or " ".join(text.split())


def _of_device(error: Exception) -> str | None:
    """Return the message of an error of torch about a device, or ``None`` for other errors."""
    text = str(error)
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    if "out of memory" in text.lower():
        first = " ".join(text.split(". ")[0].split())
        return (
            f"{first}; lower tiler.max_tiles, the batch or the lengths, or set dtype=bfloat16 "
            "(trainer.precision=bf16-true)"
        )
    is_device_error = re.search(r"CUDA|cuDNN|NVIDIA|HIP|MPS|device type|device string", text)
    return " ".join(text.splitlines()[0].split()) if is_device_error else None


def _say_loading(name: str) -> None:
    """Tell who waits at a terminal what takes the next seconds; other outputs get no such line."""
    if name in _SLOW and "torch" not in sys.modules and sys.stderr.isatty():
        print(f"hdvl {name.replace('_', ' ')}: loading torch and the models ...", file=sys.stderr)


def _check_given(name: str, unchecked: Sequence[str]) -> None:
    """Check the overrides of the running command, after they were composed.

    Raises:
        ValueError: an override would have no effect, no part has its key, or its value has the wrong type.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    choices = HydraConfig.get().runtime.choices
    chosen = dict(keys_of(given))
    if "model" in chosen and "experiment" in chosen:
        _check_model(name, given, chosen, choices)
    if "resume" in chosen:  # the others change the config of the run, and are checked against that
        return
    words = OverridesParser.create().parse_overrides(given)
    added = [word for word in words if word.is_add() and word.key_or_group in choices]
    _check_groups(name, [word.key_or_group for word in added])
    chosen_groups = {*choices, *LIST_GROUPS}  # Hydra's choices lack groups with a list of choices
    of_groups = [str(word.input_line) for word in words if word.key_or_group in chosen_groups]
    values = [
        word
        for word in words
        if word.key_or_group not in chosen_groups
        and word.key_or_group not in unchecked
        and not word.is_delete()
    ]
    if values:
        base = _plain(configs.compose(*of_groups, config_name=name))
        own = [word for word in values if word.is_add() or word.is_force_add()]
        new = {word.key_or_group: word.value() for word in own}
        check_added(base, new, name.replace("_", " "))
        kinds = kinds_of(name)  # their values are checked in the whole config
        given_here = {word.key_or_group: word.value() for word in values}
        check_values(base, {key: value for key, value in given_here.items() if key not in kinds})


def _check_sections(name: str, words: Sequence[str]) -> None:
    """Check that no mapping of the command's own that is called as a group is, such as engine, is chosen.

    Raises:
        ValueError: one is.
    """
    found = primary(name)
    for key, value in keys_of(words):
        inner = next((own.key for own in found.entries if own.key.startswith(f"{key}.")), None)
        if inner and key in groups() and key not in found.groups:
            raise ValueError(f"{key} must be a mapping, got {value}; set its keys, such as {inner}")


def _check_groups(name: str, added: Sequence[str]) -> None:
    """Check that the command takes the chosen groups of hdvl; groups of the user are allowed.

    Raises:
        ValueError: it does not take one of them.
    """
    for group in added:
        if group in groups():
            raise ValueError(_other_group(group, name))


def _other_group(group: str, name: str) -> str:
    choices = configs.compose(config_name=name, return_hydra=True).hydra.runtime.choices
    own = [key for key in choices if not key.startswith("hydra/")]
    taken = f"which takes {', '.join(own)}" if own else "which takes no groups"
    return f"{group} is no group of hdvl {name.replace('_', ' ')}, {taken}"


def _check_model(
    name: str, given: Sequence[str], chosen: Mapping[str, str], choices: Mapping[str, Any]
) -> None:
    """Check that no experiment is given together with ``model=`` and replaces parts of that model.

    Raises:
        ValueError: the experiment chooses parts itself.
    """
    without = [word for word in given if not re.match(r"\+*experiment=", word)]
    of_model = configs.compose(*without, config_name=name, return_hydra=True).hydra.runtime.choices
    replaced = [part for part in REQUIRED_GROUPS if choices.get(part) != of_model.get(part)]
    if replaced:
        parts = " ".join(f"{part}={of_model[part]}" for part in replaced)
        raise ValueError(
            f"model={chosen['model']} cannot be combined with experiment={chosen['experiment']}, whose "
            f"file sets {', '.join(replaced)} itself; leave one out, or choose the parts: {parts}"
        )


def _unknown(key: str, name: str, words: Sequence[str]) -> str:
    if key in groups():
        return _other_group(key, name)
    base = _base(name, words)
    return unknown_key(base, key, name.replace("_", " "), typed=True)


def _base(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose the config with the groups in ``words``, without values; with defaults if that fails."""
    from hydra.errors import HydraException

    chosen = [word for word in words if word.partition("=")[0].lstrip("+") in groups()]
    try:
        return _plain(configs.compose(*chosen, config_name=name))
    except HydraException:
        return _plain(configs.compose(config_name=name))


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=False)
    return dict(plain)


def _set_trace(shown: bool) -> None:
    if shown:
        os.environ[_TRACE] = "1"
    else:
        os.environ.pop(_TRACE, None)
