"""Text for a terminal: lines above a progress bar, shortened and wrapped to its width."""

import shutil
import sys
from collections.abc import Sequence

from tqdm import tqdm  # type: ignore[import-untyped]


def print_line(text: str) -> None:
    """Print lines to the standard output; a progress bar is drawn again below them."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def columns() -> int:
    """The width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def shorten(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` characters.

    >>> shorten("one\\ntwo three", 9)
    'one two…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"


def wrap_fields(fields: Sequence[str], width: int, optional: Sequence[str] = ()) -> list[str]:
    """``fields``, two spaces apart, on as many lines of ``width`` characters as they need.

    The ``optional`` fields follow as far as they fit on the last of these lines.

    >>> wrap_fields(["lr 1e-3", "4.0 tiles/s", "wait 2%"], 20, ["pad 0%", "norm 1.5"])
    ['lr 1e-3  4.0 tiles/s', 'wait 2%  pad 0%']
    """
    lines = [""]
    for field in fields:
        longer = f"{lines[-1]}  {field}" if lines[-1] else field
        if lines[-1] and len(longer) > width:
            lines.append(field)
        else:
            lines[-1] = longer
    for field in optional:
        if len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
    return lines
