"""``hdvl show GROUP=CHOICE``: prints the keys of a choice, and the documentation of its class."""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hdvl.catalogue import choices, description, groups, inherited, primary, settable
from hdvl.command import exit_with_message
from hdvl.config import CONF_DIR
from hdvl.help import columns, key_table
from hdvl.keys import similar

USAGE = """\
Print what a choice of a config group is: its keys with their values, and the documentation and arguments of
the class that it builds.

  hdvl show encoder=timm
  hdvl show merger=spatial bridge=mlp"""


def text(words: Sequence[str]) -> str:
    """Return the text that is printed for arguments such as ``encoder=timm``.

    Raises:
        ValueError: a word is no ``GROUP=CHOICE``, or there is no such group or choice.
    """
    if not words:
        raise ValueError("a choice must be given, such as hdvl show encoder=timm")
    return "\n\n\n".join(one(*word.partition("=")[::2]) for word in words)


def one(group: str, choice: str) -> str:
    """Return the description of one choice.

    Raises:
        ValueError: there is no such group or choice.
    """
    if group not in groups():
        raise ValueError(f"{group!r} is no config group{similar(group, groups())}")
    if choice not in choices(group):
        raise ValueError(
            f"{group} must be one of {', '.join(choices(group))}, got {choice!r}"
            f"{similar(choice, list(choices(group))).partition(';')[0]}"
        )
    file = CONF_DIR / group / f"{choice}.yaml"
    found = inherited(group, choice)
    parts = [f"{group}={choice}\n{description(file)}".rstrip()]
    prefix = "" if description_is_global(group) else f"{group}."
    keys = [
        type(entry)(f"{prefix}{entry.key}", entry.value, entry.comment) for entry in settable(found)
    ]
    if keys:
        parts.append("keys\n" + key_table(keys))
    chosen = primary_parts(group, choice)
    if chosen:
        parts.append("parts\n" + "\n".join(f"  {part}" for part in chosen))
    targets = dict.fromkeys(
        entry.value for entry in found if entry.key.rpartition(".")[2] == "_target_" and entry.value
    )
    return "\n\n".join([*parts, *map(documentation, targets)])


def description_is_global(group: str) -> bool:
    """Return whether the keys of a group belong to the root of the config, as those of presets do."""
    return group in ("model", "experiment")


def primary_parts(group: str, choice: str) -> list[str]:
    """Return the choices of other groups that a preset makes."""
    if not description_is_global(group):
        return []
    made = primary(f"{group}/{choice}").overridden
    return [f"{part}={name}" for part, name in made.items()]


def documentation(target: str) -> str:
    """Return the docstring and the arguments of a class or function."""
    found: Callable[..., Any] = pkgutil.resolve_name(target)
    owner = getattr(found, "__self__", None)
    documents = [inspect.getdoc(owner)] if isinstance(owner, type) else []
    documents.append(inspect.getdoc(found))
    paragraphs = [doc for doc in documents if doc]
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
        print(text(words))


if __name__ == "__main__":
    main()
