"""Converts the arguments of a command line to overrides of Hydra, with text and paths as they were typed.

In Hydra's grammar for ``key=value``, quotes, brackets, commas, ``=``, ``~``, ``#`` and all non-ASCII letters
must be quoted. This module quotes values that are text.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence

FREE_TEXT = ("prompt", "system")
"""Keys whose value is always text."""

LITERAL_PATHS = (
    "image",
    "inputs",
    "outputs",
    "out",
    "contact",
    "checkpoint",
    "other",
    "to",
    "report",
    "quarantine",
    "page",
)
PATHS = (
    *LITERAL_PATHS,
    *("path", "image_folder", "run_dir", "resume", "init_from", "folder"),
    *("questions", "runs", "local", "shards", "predictions", "data_dir", "save_dir", "from"),
    *("record", "replay", "attention", "api_keys_file", "offload_folder", "image_cache_folder"),
)
"""Last names of keys whose value is a path, never a number, a list of choices or a function call.

Lists ``[a,b]`` and mappings ``{a: b}`` of paths, ``null`` and quoted values are parsed by Hydra, and so are
interpolations, except for ``LITERAL_PATHS``.
"""

ALSO_FLAGS = ("page",)
"""Keys of ``PATHS`` that are true or false in another command."""

RENAMED = {
    "initialise": "init_from",
    "pictures": "images",
    "example.picture": "example.image",
    **{
        f"engine.{old}": f"engine.{new}"
        for old, new in {
            "picture_bytes": "image_cache_bytes",
            "picture_folder": "image_cache_folder",
            "picture_folder_bytes": "image_cache_folder_bytes",
            "prefix_bytes": "prefix_cache_bytes",
        }.items()
    },
    "optimizer.shape": "optimizer.schedule",
    "optimizer.common.floor": "optimizer.common.min_lr_ratio",
    **{
        f"optimizer.groups.{part}.floor": f"optimizer.groups.{part}.min_lr_ratio"
        for part in ("encoder", "bridge", "merger", "llm", "new_tokens")
    },
}
"""Config keys of earlier versions and their new names."""

OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve"), ()),
    **dict.fromkeys(("--run", "-r", "--multirun", "-m"), ()),
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
    **dict.fromkeys(("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"), None),
    **dict.fromkeys(("--package", "-p", "--experimental-rerun"), None),
}
"""Options of Hydra that commands take, and their allowed values; ``None`` for any value."""

REQUIRED_GROUPS = ("tiler", "encoder", "bridge", "merger", "llm", "template")
"""Groups of which every model needs a choice."""

WEIGHTED_GROUPS = ("encoder", "bridge", "merger", "llm")
"""Groups of parts with weights; choosing one of them composes a new model."""

_DELETED = re.compile(r"~([\w./@:-]+)(?:=.*)?", re.DOTALL)
_KEY = re.compile(r"(\+\+?|)([\w./-]+)=(.*)", re.DOTALL)
_BARE = re.compile(r"[\w./:$%+@?| -]*", re.ASCII)


def typed_overrides(words: Sequence[str]) -> list[str]:
    """Return ``words`` with every text value quoted, so that Hydra reads it as it was typed.

    >>> typed_overrides(["prompt=Where, exactly?", "image=[a.png,b.png]", "run_dir=runs/a=1"])
    ['prompt="Where, exactly?"', 'image=[a.png,b.png]', 'run_dir="runs/a=1"']
    """
    sweep = _sweeps(words)
    typed, value_of_option = [], False
    for word in words:
        found = None if value_of_option or word.startswith("-") else _KEY.fullmatch(word)
        value_of_option = _needs_value(word)
        if found and not found[2].startswith("hydra."):
            word = f"{found[1]}{found[2]}={_value(found[2], found[3], sweep)}"
        typed.append(word)
    return typed


LIST_GROUPS = ("task",)
"""Config groups of which several choices may be given, as in ``task=[docvqa,chartqa]``."""


def check_words(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Check that each argument is ``key=value``, ``~key`` or an option of Hydra, and that choices exist.

    Args:
        words: the arguments of a command line.
        groups: the choices of each config group.

    Raises:
        ValueError: an argument is none of these; the message suggests a correction.
    """
    several, value_of_option = _sweeps(words), False
    for number, word in enumerate(words):
        if value_of_option:
            value_of_option = False
        elif word.startswith("-"):
            value_of_option = _needs_value(word)
            _check_option(word, words[number + 1 :])
        elif found := _KEY.fullmatch(word):
            if found[2] in groups:
                _check_choice(found[2], found[3], groups[found[2]], several=several)
        elif deleted := _DELETED.fullmatch(word):
            if deleted[1] in REQUIRED_GROUPS:
                raise ValueError(
                    f"{word} would leave out a part that every model has; choose another"
                )
        elif not _is_option_value(words, number):
            raise ValueError(_bare_word(word, groups))


def _check_option(word: str, rest: Sequence[str]) -> None:
    option, equals, value = word.partition("=")
    if re.fullmatch(r"-[hcrmipn]{2,}", word) and word not in OPTIONS:
        return  # several short options in one argument, such as -mc
    if option not in OPTIONS:
        name = option.lstrip("-").replace("-", "_") or "key"
        like = difflib.get_close_matches(option, OPTIONS, n=1, cutoff=0.75)
        hint = f"did you mean {like[0]}, or {name}=..." if like else f"did you mean {name}=..."
        raise ValueError(
            f"{option} is no option; {hint}? Values are given as key=value, without dashes"
        )
    choices = OPTIONS[option]
    if not equals and _needs_value(word) and not rest:
        raise ValueError(f"{option} needs a value")
    given = value if equals else (rest[0] if choices and rest else "")
    if choices and given not in choices and (equals or option in ("--cfg", "-c")):
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {given!r}")


def _needs_value(word: str) -> bool:
    return word in OPTIONS and (OPTIONS[word] is None or word in ("--cfg", "-c"))


def _is_option_value(words: Sequence[str], number: int) -> bool:
    return number > 0 and words[number - 1] in ("--info", "-i")


def _check_choice(group: str, value: str, choices: Sequence[str], *, several: bool) -> None:
    if (several and "," in value) or (
        group in LIST_GROUPS and re.fullmatch(r"\[[\w,\s]+\]", value)
    ):
        return
    if value in ("", "null") or value[0] in "[{" or "," in value:
        hint = "; --multirun runs one after the other" if "," in value else ""
        raise ValueError(f"{group} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _bare_word(word: str, groups: Mapping[str, Sequence[str]]) -> str:
    choice = [f"{group}={word}" for group, choices in groups.items() if word in choices]
    if not choice and os.path.isdir(word):
        choice = [f"checkpoint={word}"]
    elif not choice and os.path.splitext(word)[1]:
        choice = [f"image={word}"]
    hint = f", did you mean {' or '.join(choice)}?" if choice else ", such as key=value"
    return f"{word!r} must be given to a key{hint}"


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ``words`` into options of Hydra, with their values, and overrides.

    Hydra accepts options only before or after all overrides.

    >>> split_options(["seed=1,2", "--multirun", "--config-dir", "conf", "run_dir=runs/a"])
    (['--multirun', '--config-dir', 'conf'], ['seed=1,2', 'run_dir=runs/a'])
    """
    options, overrides, value_of_option = list[str](), list[str](), False
    for word in words:
        (options if value_of_option or word.startswith("-") else overrides).append(word)
        value_of_option = _needs_value(word)
    return options, overrides


def literal_text(words: Sequence[str]) -> dict[str, str]:
    """Return the free text in ``words`` by key, exactly as it was typed.

    Not every text can be quoted for Hydra: ``???`` means a missing value even in quotes.
    """
    found, sweep = {}, _sweeps(words)
    for word in words:
        key, given, value = word.partition("=")
        if given and key in FREE_TEXT and not _is_hydras(key, value, sweep):
            found[key] = value
    return found


def _sweeps(words: Sequence[str]) -> bool:
    return any(re.fullmatch(r"--multirun|-[a-z]*m[a-z]*", word) for word in words)


def _is_hydras(key: str, value: str, sweep: bool) -> bool:
    """Return whether ``value`` of a key in FREE_TEXT is null, or a sweep over quoted texts."""
    if value == "null":
        return key != "prompt"
    return sweep and value[:1] in ("'", '"') and _kind(value) == "sweep"


def check_renamed(key: str, source: object = None) -> None:
    """Raise a ``ValueError`` if the dotted ``key`` was renamed; ``source`` is the file that contains it.

    ``stages.0.KEY`` is checked as ``KEY``.
    """
    own = re.sub(r"^stages\.\d+\.", "", key)
    if own in RENAMED:
        now = key.removesuffix(own) + RENAMED[own]
        where = "" if source is None else f" of {source}"
        raise ValueError(f"{key}{where} is called {now} now; use that name")


def quoted(text: str, *, interpolate: bool = False) -> str:
    """Return ``text`` quoted for Hydra.

    Backslashes are special only before a quote, and before ``${``, which would begin an interpolation.
    """
    if not interpolate:
        text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
    escaped = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{escaped}"'


def for_checkpoint(words: Sequence[str], source: str) -> tuple[list[str], list[str]]:
    """Allow overrides of keys that only the parts of a checkpoint have, not the default parts.

    If ``words`` choose neither a part nor a model, values of that part change the part of the checkpoint,
    which may have other keys. They are checked when the checkpoint is read.

    Args:
        words: the arguments of a command line.
        source: the key that names the checkpoint: ``checkpoint``, whose default is not used if a part with
            weights is chosen, or ``init_from``, which has no default.

    Returns:
        The arguments, with ``++`` before such overrides, and the keys of these.
    """
    given = dict(keys_of(words))
    chosen = [part for part in REQUIRED_GROUPS if part in given]
    default = source == "checkpoint" and not set(chosen) & set(WEIGHTED_GROUPS)
    if {"model", "experiment"} & set(given) or given.get(
        source, "" if default else "null"
    ) == "null":
        return list(words), []
    changed, keys = [], []
    for word in words:
        found = _KEY.fullmatch(word)
        part, dot, _ = (found[2] if found else "").partition(".")
        if found and dot and part in REQUIRED_GROUPS and part not in chosen:
            keys.append(found[2])
            word = f"++{found[2]}={found[3]}"
        changed.append(word)
    return changed, keys


def _value(key: str, value: str, sweep: bool) -> str:
    name = key.rpartition(".")[2]
    if not value:
        return value
    if name in FREE_TEXT and "." not in key:
        return value if _is_hydras(name, value, sweep) else quoted(value)
    if name in PATHS:
        return _path(name, value, sweep)
    kind = _kind(value)
    if kind == "sweep" and not sweep and not _numbers(value):
        return quoted(value, interpolate=True)
    return quoted(value, interpolate=_interpolates(value)) if kind == "text" else value


def _path(name: str, value: str, sweep: bool) -> str:
    kind, interpolate = _kind(value), name not in LITERAL_PATHS and _interpolates(value)
    if value == "null" or kind in ("list", "mapping", "quoted") or (kind == "sweep" and sweep):
        return value
    if name in ALSO_FLAGS and value in ("true", "false"):
        return value
    if value[0] == "[" and value[-1] == "]":
        items = [quoted(item.strip(), interpolate=interpolate) for item in value[1:-1].split(",")]
        return f"[{','.join(items)}]"
    if kind == "plain" and _BARE.fullmatch(value) and not _looks_like_a_number(value):
        return value
    return quoted(value, interpolate=interpolate)


def _kind(value: str) -> str:
    """Return how Hydra parses ``value``: ``list``, ``mapping``, ``quoted``, ``sweep``, ``plain``, or ``text``
    if it cannot parse it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return "text"
    if parsed.is_sweep_override():
        return "sweep"
    found = parsed._value
    if isinstance(found, QuotedString):
        return "quoted"
    if isinstance(found, list):
        return "list"
    return "mapping" if isinstance(found, dict) else "plain"


def _numbers(value: str) -> bool:
    """Return whether ``value`` is a comma-separated list of numbers, which Hydra handles."""
    return all(_looks_like_a_number(item.strip()) for item in value.split(","))


def _looks_like_a_number(value: str) -> bool:
    if value.lower() in ("true", "false", "nan", "inf", "+inf", "-inf", "null"):
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True


def _interpolates(value: str) -> bool:
    """Return whether ``value`` contains an interpolation that OmegaConf can parse."""
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    if "${" not in value:
        return False
    try:
        parse(value)
    except GrammarParseError:
        return False
    return True


def keys_of(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return (key, value) of each argument ``key=value``, in order."""
    for word in words:
        found = _KEY.fullmatch(word)
        if found:
            yield found[2], found[3]
