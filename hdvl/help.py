"""The text of ``hdvl COMMAND --help``: purpose, examples, keys with comments, groups with choices."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap

from hdvl.catalogue import CONF, Entry, choices, primary, settable

WIDTH = 100
UNUSED = {
    "tile": ("llm", "template"),
    **dict.fromkeys(
        ("data_lint", "data_bench"), ("optimizer", "tuning", "trainer", "logger", "callbacks")
    ),
}
"""Groups in the defaults of a command that exist only for presets; choosing them has no effect."""

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
    taken = {key: value for key, value in found.groups.items() if key not in UNUSED.get(name, ())}
    if taken:
        blocks.append(
            "groups (* is the default; hdvl show GROUP=CHOICE prints the keys of a choice)\n\n"
            + "\n\n".join(group_table(group, default) for group, default in taken.items())
        )
    return "\n\n".join([*blocks, OPTIONS])


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
    width = min(max((len(first) for first, _ in rows), default=0), 40)
    lines = []
    for first, second in rows:
        pieces = wrap(second, WIDTH - indent - width - 2) or [""]
        if len(first) > width and second:
            lines.append(f"{'':{indent}}{first}")
            first = ""
        for piece in pieces:
            lines.append(f"{'':{indent}}{first:<{width}}  {piece}".rstrip())
            first = ""
    return "\n".join(lines)
