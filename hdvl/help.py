"""The text of ``hdvl COMMAND --help``: purpose, examples, keys with comments, groups with choices."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap

from hdvl.catalogue import CONF, Entry, choices, inherited, primary, settable

WIDTH = 100
"""The width of the text where there is no narrower terminal."""
UNUSED = {
    "tile": ("llm", "template"),
    **dict.fromkeys(
        ("data_lint", "data_bench"), ("optimizer", "tuning", "trainer", "logger", "callbacks")
    ),
}
"""Groups in the defaults of a command that exist only for presets; choosing them has no effect."""

_DATA = ("data=llava", "train.path", "train.image_folder")
OFTEN_SET: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("data_lint", "data_bench"), (_DATA,)),
    **dict.fromkeys(
        ("train", "plan"),
        (
            (*_DATA, "validation.path", "holdout", "batch_size"),
            ("trainer=default", "max_steps", "max_epochs", "precision"),
            ("optimizer=adamw", "common.lr"),
        ),
    ),
}
"""Choices of groups, each with the keys that users set most often."""

OPTIONS = """\
options
  --help              this text
  --cfg job           print the config that the command would run with
  --multirun          run every combination of values that are separated by commas
  --config-dir DIR    a folder of your own groups and choices"""


def help_text(name: str) -> str:
    """Return the help of the command whose primary config is ``name``."""
    found = primary(name)
    blocks = [found.header or f"hdvl {name.replace('_', ' ')}"]
    if keys := list(settable(found.entries)):
        blocks.append("keys\n" + key_table(keys))
    if OFTEN_SET.get(name):
        shown = ", ".join(choice for choice, *_ in OFTEN_SET[name])
        blocks.append(
            f"keys of groups that are set most often (of {shown})\n" + key_table(often(name))
        )
    taken = {key: value for key, value in found.groups.items() if key not in UNUSED.get(name, ())}
    if taken:
        blocks.append(
            "groups (* is the default; hdvl show GROUP=CHOICE prints the keys of a choice)\n\n"
            + "\n\n".join(group_table(group, default) for group, default in taken.items())
        )
    return "\n\n".join([*blocks, OPTIONS])


def often(name: str) -> list[Entry]:
    """Return the keys of groups that users of the command ``name`` set most often."""
    found = []
    for choice, *keys in OFTEN_SET[name]:
        group, _, chosen = choice.partition("=")
        entries = {entry.key: entry for entry in inherited(group, chosen)}
        found += [entries[f"{group}.{key}"] for key in keys]
    return found


def group_table(group: str, default: str | None = None, folders: Sequence[Path] = CONF) -> str:
    """Return the choices of a group, one per line."""
    rows = [
        (f"{'*' if name == default else ' '} {name}", text)
        for name, text in choices(group, folders).items()
    ]
    return f"  {group}=\n" + columns(rows, indent=4)


def key_table(entries: Iterable[Entry]) -> str:
    """Return the keys with their values and comments."""
    return columns([(f"{entry.key}={entry.value}", entry.comment) for entry in entries], indent=2)


def columns(rows: list[tuple[str, str]], *, indent: int) -> str:
    """Format rows as two columns, of which the second is wrapped."""
    whole = min(WIDTH, max(60, get_terminal_size((WIDTH, 24)).columns))
    width = min(max((len(first) for first, _ in rows), default=0), 40)
    lines = []
    for first, second in rows:
        pieces = wrap(second, whole - indent - width - 2) or [""]
        if len(first) > width and second:
            lines.append(f"{'':{indent}}{first}")
            first = ""
        for piece in pieces:
            lines.append(f"{'':{indent}}{first:<{width}}  {piece}".rstrip())
            first = ""
    return "\n".join(lines)
