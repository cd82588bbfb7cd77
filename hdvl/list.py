"""``hdvl list [GROUP ...]``: the config groups, or the choices of some of them."""

import sys

from hdvl.catalogue import choices, groups
from hdvl.command import exit_with_message
from hdvl.help import columns, group_table
from hdvl.keys import similar

USAGE = """\
Print the config groups, or the choices of some of them with what each is.

  hdvl list
  hdvl list encoder bridge"""


def text(names: list[str]) -> str:
    """Return the text that is printed for the groups ``names``, or for all groups if there are none.

    Raises:
        ValueError: there is no such group.
    """
    if not names:
        rows = [
            (group, f"{len(choices(group))} choices: {', '.join(choices(group))}")
            for group in groups()
        ]
        return "\n".join(
            [
                "hdvl list GROUP describes the choices, hdvl show GROUP=CHOICE one of them.",
                "",
                columns(rows, indent=0),
            ]
        )
    for name in names:
        if name not in groups():
            raise ValueError(f"{name!r} is no config group{similar(name, groups())}")
    return "\n\n".join(group_table(name) for name in names)


def main() -> None:
    """Run the command."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with exit_with_message("list"):
        print(text(words))


if __name__ == "__main__":
    main()
