"""``hdvl doctor``: check what is installed, whether it fits together, and what this machine can do."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hdvl.command import command


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


def check(plain: dict[str, Any]) -> None:
    """Run all checks and print them; exit code 1 if something that hdvl needs is missing or wrong."""
    from hdvl import diagnostics

    ranges = diagnostics.read_ranges()
    core = list(diagnostics.check_packages(ranges))
    sections: dict[str, Iterable[Any]] = {f"Packages (ranges of {ranges.source})": core}
    bad = report(sections)
    if bad:
        print(f"\n{bad} wrong; the other checks need these packages first")
        sys.exit(1)
    bad = report(
        {
            "Builds": [diagnostics.check_torchvision()],
            "Machine": itertools.chain(
                diagnostics.check_processor(), diagnostics.check_room(Path(plain["folder"]))
            ),
            "Accelerator": diagnostics.check_accelerator(),
            "Extras": itertools.chain(
                diagnostics.check_extras(ranges), [diagnostics.check_fonts()]
            ),
        }
    )
    print(f"\n{bad} wrong" if bad else "\nall that hdvl needs is there")
    if bad:
        sys.exit(1)


def main() -> None:
    """Run the command; exit code 1 if something that hdvl needs is missing or wrong."""
    command("doctor", check)


if __name__ == "__main__":
    main()
