"""Reads the groups, choices, keys and comments of the files in ``conf/``.

The files are read as text, without importing Hydra or the parts, so that help and completion are fast.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdvl.config import CONF_DIR
from hdvl.overrides import split_options

HIDDEN = ("defaults", "hydra")
"""Keys of Hydra, which are not shown."""

CONF = (CONF_DIR,)
"""The folders of the groups, without folders of the user."""

_KEY = re.compile(r"( *)(- +)?([\w-]+): *(.*)")
_COMMENT = re.compile(r"""((?:[^'"#]|'[^']*'|"[^"]*"|(?<! )#)*?)(?:\s*(?:^|\s)#\s*(.*))?""")


_PACKAGE = re.compile(r"^# @package ([\w.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """A key of a YAML file.

    Attributes:
        key: the dotted key.
        value: its value as it is written; empty for a mapping.
        comment: the comment after the value; empty if there is none.
    """

    key: str
    value: str
    comment: str


@dataclass(frozen=True)
class Primary:
    """The primary config of a command.

    Attributes:
        header: the help text: purpose and examples.
        groups: the default choice of each group, or ``None``.
        overridden: the choices of a preset that replace the defaults.
        entries: the keys outside of the groups.
    """

    header: str
    groups: dict[str, str | None]
    overridden: dict[str, str]
    entries: list[Entry]


def with_own_folders(words: Sequence[str], command: str) -> tuple[list[str], tuple[Path, ...]]:
    """Split arguments into those without ``--config-dir DIR``, and the folders of the groups and choices.

    Raises:
        ValueError: there is another option, or no such folder.
    """
    options, rest = split_options(words)
    folders, given = list(CONF), iter(options)
    for option in given:
        name, equals, value = option.partition("=")
        if name not in ("--config-dir", "-cd"):
            raise ValueError(f"{name} is no option of hdvl {command}; it takes --config-dir DIR")
        folder = Path(value if equals else next(given, ""))
        if folder == Path() or not folder.is_dir():
            raise ValueError(f"--config-dir must be an existing folder, got {str(folder)!r}")
        folders.append(folder)
    return rest, tuple(folders)


def groups(folders: Sequence[Path] = CONF) -> list[str]:
    """Return the names of the config groups."""
    return sorted(
        {
            path.name
            for folder in folders
            for path in folder.iterdir()
            if path.is_dir() and (folder == CONF_DIR or any(path.glob("*.yaml")))
        }
    )


def choices(group: str, folders: Sequence[Path] = CONF) -> dict[str, str]:
    """Return the choices of a group, each with the first sentence of the comment in its file."""
    files = _files(group, folders)
    return {choice: _first_sentence(description(files[choice])) for choice in sorted(files)}


def file_of(group: str, choice: str, folders: Sequence[Path] = CONF) -> Path:
    """Return the file of a choice. As in Hydra, one of hdvl comes before one of the user."""
    return _files(group, folders)[choice]


def _files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    return {
        file.relative_to(folder / group).with_suffix("").as_posix(): file
        for folder in reversed(folders)
        for file in (folder / group).rglob("*.yaml")
    }


def description(file: Path) -> str:
    """Return the comment at the beginning of a file, without directives for Hydra."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    prose = " ".join(line for line in lines if not line.startswith("hdvl "))
    return re.split(r"(?<=[.])\s+(?=[A-Z])", prose.strip())[0]


def entries(text: str) -> list[Entry]:
    """Return the keys of a YAML file, in the order of the file; items of lists are numbered from 0."""
    found: list[Entry] = []
    items: dict[str, int] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _KEY.fullmatch(line)
        if not match:
            continue
        indent, dash, name, rest = len(match[1]), match[2], match[3], match[4]
        # The dashes of a list may stand below the first letter of its key.
        while above and above[-1][0] >= indent + bool(dash and not above[-1][1].isdigit()):
            above.pop()
        if dash:
            owner = ".".join(key for _, key in above)
            items[owner] = items.get(owner, -1) + 1
            above.append((indent, str(items[owner])))
            indent += len(dash)
        split = _COMMENT.fullmatch(rest)
        value, comment = (split[1], split[2] or "") if split else (rest, "")
        above.append((indent, name))
        if above[0][1] not in HIDDEN:
            key = ".".join(key for _, key in above)
            shared = next((entry for entry in found if key.startswith(f"{entry.key}.")), None)
            found.append(Entry(key, value.strip(), comment or (shared.comment if shared else "")))
    return found


def inherited(group: str, choice: str, folders: Sequence[Path] = CONF) -> list[Entry]:
    """Return the keys of a choice, including those of the choices that it is derived from.

    The keys are those of the composed config, such as ``bridge.depth`` or ``task.docvqa.protocol``.
    """
    text = file_of(group, choice, folders).read_text(encoding="utf-8")
    package = _PACKAGE.search(text)
    place = package[1] if package else group
    prefix = "" if place == "_global_" else f"{place}."
    merged: dict[str, Entry] = {}
    for base in _bases(text):
        owner, name = base[1:].split("/", 1) if base.startswith("/") else (group, base)
        merged |= {entry.key: entry for entry in inherited(owner, name, folders)}
    own = {f"{prefix}{entry.key}": entry for entry in entries(text)}
    lists = {found[1] for key in own if (found := re.match(r"(.*\.)0\.", key))}
    merged = {key: entry for key, entry in merged.items() if not key.startswith(tuple(lists))}
    for key, entry in own.items():
        old = merged.get(key)
        merged[key] = Entry(key, entry.value, entry.comment or (old.comment if old else ""))
    return list(merged.values())


def primary(name: str, folders: Sequence[Path] = CONF) -> Primary:
    """Read a primary config or a preset (such as ``model/small``), with the files that it is derived from."""
    folder, slash, choice = name.rpartition("/")
    text = file_of(folder, choice, folders).read_text(encoding="utf-8")
    plain = _load(text)
    found: dict[str, str | None] = {}
    overridden: dict[str, str] = {}
    own: list[Entry] = []
    for entry in plain.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            absolute = entry.startswith("/")
            base = primary(entry[1:] if absolute else f"{folder}{slash}{entry}", folders)
            found |= base.groups
            overridden |= base.overridden
            own += base.entries
        elif isinstance(entry, dict):
            found |= {
                key: value if isinstance(value, str) else None  # a list of choices has no default
                for key, value in entry.items()
                if not key.startswith("override ")
            }
            overridden |= {
                key.removeprefix("override /"): value
                for key, value in entry.items()
                if key.startswith("override /")
            }
    merged = {entry.key: entry for entry in own} | {entry.key: entry for entry in entries(text)}
    header = plain.get("hydra", {}).get("help", {}).get("header", "")
    return Primary(
        header=header.strip(), groups=found, overridden=overridden, entries=list(merged.values())
    )


def settable(found: list[Entry]) -> Iterator[Entry]:
    """Return the entries of ``found`` that are plain values, not mappings, classes or interpolations."""
    parents = {entry.key.rpartition(".")[0] for entry in found}
    for entry in found:
        last = entry.key.rpartition(".")[2]
        if (
            entry.key not in parents
            and not last.startswith("_")
            and not entry.value.startswith("${")
        ):
            yield entry


def _bases(text: str) -> list[str]:
    return [
        entry
        for entry in _load(text).get("defaults", [])
        if isinstance(entry, str) and entry != "_self_"
    ]


def _load(text: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(text) or {}
