"""``hdvl doctor``: check what is installed, whether it fits together, and what this machine can do."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hdvl.command import command
from hdvl.extras import COMMANDS, read_ranges


def report(sections: dict[str, Iterable[Any]]) -> int:
    """Print the findings of each section, and return the number of those that are wrong."""
    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    bad = 0
    for title, findings in sections.items():
        print(f"\n{title}")
        for finding in findings:
            bad += finding.level == "bad"
            advice = f"  -> {finding.advice}" if finding.advice else ""
            print(f"  {marks[finding.level]}  {finding.name:<20} {finding.value}{advice}")
    return bad


def lacking(extras: Iterable[Any]) -> str:
    """The end of the last line: the commands that need an extra that is not installed."""
    said = [
        f"{', '.join(f'hdvl {name}' for name in COMMANDS[one.name])}: {one.advice}"
        for one in extras
        if one.level != "ok" and one.name in COMMANDS
    ]
    return "".join([", but not for ", "; ".join(said)] if said else "")


def check(plain: dict[str, Any]) -> None:
    """Run all checks and print them; exit code 1 if something that hdvl needs is missing or wrong."""
    from hdvl import diagnostics

    ranges = read_ranges()
    core = list(diagnostics.check_packages(ranges))
    sections: dict[str, Iterable[Any]] = {f"Packages (ranges of {ranges.source})": core}
    bad = report(sections)
    if bad:
        print(f"\n{bad} wrong; the other checks need these packages first")
        sys.exit(1)
    extras = list(diagnostics.check_extras(ranges))
    bad = report(
        {
            "Builds": [diagnostics.check_torchvision()],
            "Machine": itertools.chain(
                diagnostics.check_processor(), diagnostics.check_room(Path(plain["folder"]))
            ),
            "Accelerator": diagnostics.check_accelerator(),
            "Extras": [*extras, diagnostics.check_fonts()],
        }
    )
    print(f"\n{bad} wrong" if bad else f"\nall that hdvl needs is there{lacking(extras)}")
    if bad:
        sys.exit(1)


def main() -> None:
    """Run the command; exit code 1 if something that hdvl needs is missing or wrong."""
    command("doctor", check)


if __name__ == "__main__":
    main()
