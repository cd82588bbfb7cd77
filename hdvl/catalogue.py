"""Reads the groups, choices, keys and comments of the files in ``conf/``.

The files are read as text, without importing Hydra or the parts, so that help and completion are fast.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdvl.config import CONF_DIR

HIDDEN = ("defaults", "hydra")
"""Keys of Hydra, which are not shown."""

_KEY = re.compile(r"( *)([\w-]+): *(.*)")
_COMMENT = re.compile(r"""((?:[^'"#]|'[^']*'|"[^"]*"|(?<! )#)*?)(?:\s*(?:^|\s)#\s*(.*))?""")


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


def groups() -> list[str]:
    """Return the names of the config groups."""
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())


def choices(group: str) -> dict[str, str]:
    """Return the choices of a group, each with the first sentence of the comment in its file."""
    files = sorted((CONF_DIR / group).glob("*.yaml"))
    return {file.stem: _first_sentence(description(file)) for file in files}


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
    """Return the keys of a YAML file, in the order of the file."""
    found: list[Entry] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _KEY.fullmatch(line)
        if not match:
            continue
        indent, name, rest = len(match[1]), match[2], match[3]
        while above and above[-1][0] >= indent:
            above.pop()
        split = _COMMENT.fullmatch(rest)
        value, comment = (split[1], split[2] or "") if split else (rest, "")
        above.append((indent, name))
        if above[0][1] not in HIDDEN:
            key = ".".join(key for _, key in above)
            shared = next((entry for entry in found if key.startswith(f"{entry.key}.")), None)
            found.append(Entry(key, value.strip(), comment or (shared.comment if shared else "")))
    return found


def inherited(group: str, choice: str) -> list[Entry]:
    """Return the keys of a choice, including those of the choices that it is derived from."""
    text = (CONF_DIR / group / f"{choice}.yaml").read_text(encoding="utf-8")
    merged: dict[str, Entry] = {}
    for base in _bases(text):
        merged |= {entry.key: entry for entry in inherited(group, base)}
    for entry in entries(text):
        old = merged.get(entry.key)
        comment = entry.comment or (old.comment if old else "")
        merged[entry.key] = Entry(entry.key, entry.value, comment)
    return list(merged.values())


def primary(name: str) -> Primary:
    """Read a primary config or a preset (such as ``model/small``), with the files that it is derived from."""
    text = (CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    plain = _load(text)
    folder, slash, _ = name.rpartition("/")
    found: dict[str, str | None] = {}
    overridden: dict[str, str] = {}
    own: list[Entry] = []
    for entry in plain.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = primary(f"{folder}{slash}{entry}")
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
