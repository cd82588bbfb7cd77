"""``hdvl list [GROUP ...]``: the config groups, or the choices of some of them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hdvl.catalogue import CONF, choices, groups, with_own_folders
from hdvl.command import exit_with_message
from hdvl.help import columns, group_table
from hdvl.keys import similar

USAGE = """\
Print the config groups, or the choices of some of them with what each is.

  hdvl list
  hdvl list encoder bridge
  hdvl list bridge --config-dir DIR       also the choices in a folder of your own"""


def text(names: Sequence[str], folders: Sequence[Path] = CONF) -> str:
    """Return the text that is printed for the groups ``names``, or for all groups if there are none.

    Raises:
        ValueError: there is no such group.
    """
    if not names:
        rows = [
            (group, f"{len(choices(group, folders))} choices: {', '.join(choices(group, folders))}")
            for group in groups(folders)
        ]
        return "\n".join(
            [
                "hdvl list GROUP describes the choices, hdvl show GROUP=CHOICE one of them.",
                "",
                columns(rows, indent=0),
            ]
        )
    for name in names:
        if name not in groups(folders):
            raise ValueError(f"{name!r} is no config group{similar(name, groups(folders))}")
    return "\n\n".join(group_table(name, folders=folders) for name in names)


def main() -> None:
    """Run the command."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with exit_with_message("list"):
        found = text(*with_own_folders(words, "list"))
    print(found)  # outside, so that hdvl.cli sees when who reads the output has seen enough


if __name__ == "__main__":
    main()
