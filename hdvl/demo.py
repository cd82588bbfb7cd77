"""``hdvl demo``: asks the shipped model about the shipped images, and compares with the correct answers."""

from pathlib import Path
from typing import Any

from hdvl.command import command


def demonstrate(plain: dict[str, Any]) -> Path:
    """Ask every question, print a table of the answers, write the HTML page and return its path."""
    from hdvl.checkpoints.sources import ASSETS
    from hdvl.inference import html_report
    from hdvl.inference.cases import ask_cases, read_cases
    from hdvl.inference.load import load

    cases = read_cases(Path(plain["questions"]) if plain["questions"] else ASSETS / "demo.json")
    pipe = load(plain["checkpoint"], device=plain["device"])
    parameters = sum(value.numel() for value in pipe.model.parameters())
    about = f"{plain['checkpoint']}: {parameters / 1e6:.1f} M parameters"
    print(f"{about}, {len(cases)} questions\n\n{html_report.table_row(html_report.HEAD)}")
    outcomes = []
    for outcome in ask_cases(pipe, cases, max_new_tokens=plain["max_new_tokens"]):
        print(html_report.table_row(html_report.cells(outcome)), flush=True)
        outcomes.append(outcome)
    right = sum(outcome.right for outcome in outcomes)
    path = html_report.write_page(Path(plain["page"]), outcomes, title="hdvl demo", about=about)
    print(f"\n{right} of {len(outcomes)} right; tiles and boxes drawn in {path}")
    return path


def main() -> None:
    """Run the command."""
    command("demo", demonstrate)


if __name__ == "__main__":
    main()
