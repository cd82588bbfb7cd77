"""``hdvl show GROUP=CHOICE``: prints the keys of a choice, and the documentation of its class."""

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hdvl.catalogue import (
    CONF,
    choices,
    description,
    file_of,
    groups,
    inherited,
    primary,
    settable,
    with_own_folders,
)
from hdvl.command import exit_with_message
from hdvl.help import columns, key_table
from hdvl.keys import similar

USAGE = """\
Print what a choice of a config group is: its keys with their values, and the documentation and arguments of
the class that it builds.

  hdvl show encoder=timm
  hdvl show merger=spatial bridge=mlp
  hdvl show bridge=mine --config-dir DIR  a choice in a folder of your own"""

FORMULA = re.compile(r"^( *)\.\. math::.*\n(?:\1 .*\n| *\n)*", re.MULTILINE)
"""The directive of a formula in reStructuredText, and the indented lines that belong to it."""


def text(words: Sequence[str], folders: Sequence[Path] = CONF) -> str:
    """Return the text that is printed for arguments such as ``encoder=timm``.

    Raises:
        ValueError: a word is no ``GROUP=CHOICE``, or there is no such group or choice.
    """
    if not words:
        raise ValueError("a choice must be given, such as hdvl show encoder=timm")
    return "\n\n\n".join(one(*word.partition("=")[::2], folders) for word in words)


def one(group: str, choice: str, folders: Sequence[Path] = CONF) -> str:
    """Return the description of one choice.

    Raises:
        ValueError: there is no such group or choice.
    """
    if group not in groups(folders):
        if not choice:
            owners = [name for name in groups(folders) if group in choices(name, folders)]
            if owners:
                meant = " or ".join(f"{name}={group}" for name in owners)
                raise ValueError(f"{group!r} is no config group, did you mean {meant}?")
        raise ValueError(f"{group!r} is no config group{similar(group, groups(folders))}")
    known = list(choices(group, folders))
    if not choice:
        raise ValueError(
            f"a choice of {group} must be given, such as {group}={known[0]}; hdvl list {group} describes them"
        )
    if choice not in known:
        raise ValueError(
            f"{group} must be one of {', '.join(known)}, got {choice!r}"
            f"{similar(choice, known).partition(';')[0]}"
        )
    file = file_of(group, choice, folders)
    found = inherited(group, choice, folders)
    parts = [f"{group}={choice}\n{description(file)}".rstrip()]
    keys = [
        entry for entry in settable(found) if entry.value
    ]  # else a mapping of names with spaces
    if keys:
        parts.append("keys\n" + key_table(keys))
    chosen = primary_parts(group, choice, folders)
    if chosen:
        parts.append("parts\n" + "\n".join(f"  {part}" for part in chosen))
    targets = dict.fromkeys(
        entry.value for entry in found if entry.key.rpartition(".")[2] == "_target_" and entry.value
    )
    return "\n\n".join([*parts, *map(documentation, targets)])


def primary_parts(group: str, choice: str, folders: Sequence[Path] = CONF) -> list[str]:
    """Return the choices of other groups that a preset makes."""
    if group not in ("model", "experiment"):
        return []
    made = primary(f"{group}/{choice}", folders).overridden
    return [f"{part}={name}" for part, name in made.items()]


def documentation(target: str) -> str:
    """Return the docstring, without formulas in LaTeX, and the arguments of a class or function.

    Raises:
        ValueError: its module cannot be found.
    """
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(target)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{target} cannot be shown, there is no module {error.name}; name the folder of its file in "
            "PYTHONPATH, or install it"
        ) from error
    owner = getattr(found, "__self__", None)
    documents = [inspect.getdoc(owner)] if isinstance(owner, type) else []
    documents.append(inspect.getdoc(found))
    paragraphs = [FORMULA.sub("", doc) for doc in documents if doc]
    return "\n\n".join([target, *paragraphs, "arguments\n" + argument_table(found, owner)])


def argument_table(found: Callable[..., Any], owner: Any) -> str:
    """Return a table of the arguments with types and defaults; for a classmethod also those of its class."""
    parameters = dict(inspect.signature(found).parameters)
    if isinstance(owner, type) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        parameters |= {
            name: value
            for name, value in inspect.signature(owner).parameters.items()
            if name not in parameters
        }
    rows = []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        kind = (
            ""
            if parameter.annotation is parameter.empty
            else inspect.formatannotation(parameter.annotation)
        )
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        rows.append((name, f"{kind}{default}".strip()))
    return columns(rows, indent=2)


def main() -> None:
    """Run the command."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with exit_with_message("show"):
        found = text(*with_own_folders(words, "show"))
    print(found)  # outside, so that hdvl.cli sees when who reads the output has seen enough


if __name__ == "__main__":
    main()
