"""``hdvl data lint``: checks every row of the data, and writes a report and a file of rows to skip."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.composition import with_init_from
from hdvl.config import build, given_values, resolve
from hdvl.inputs import check_data
from hdvl.sequences import one_or_several

if TYPE_CHECKING:
    from hdvl.data.lint import Report


def run(config: dict[str, Any]) -> "tuple[Report, float]":
    """Check the rows, write both files, and return the report and the share of rows to skip.

    Raises:
        ValueError: ``leave_out`` names an unknown fault, a folder of images does not exist, or the data
            have no rows.
    """
    from hdvl.data.build import validation_node
    from hdvl.data.lint import FAULTS, lint, row_sources
    from hdvl.data.quarantine import write_json
    from hdvl.meta import on_meta
    from hdvl.processor import Processor

    leave_out = one_or_several(config["leave_out"], "leave_out")
    if unknown := sorted(set(leave_out) - set(FAULTS)):
        raise ValueError(f"leave_out must be among {', '.join(FAULTS)}, got {unknown}")
    data = config["data"]
    check_data(data)
    vlm = on_meta(config["model"])
    nodes = [data["train"], validation_node(data)]
    sources = [
        source
        for node in nodes
        if node is not None
        for source in row_sources(build(node)(boxes=vlm.template.boxes))
    ]
    processor = Processor.of(vlm, max_length=data["max_length"])
    report = lint(sources, processor, num_workers=config["num_workers"])
    write_json(Path(config["report"]), report.as_json())
    write_json(Path(config["quarantine"]), report.quarantine(leave_out))
    return report, len(report.bad(leave_out)) / sum(report.rows.values())


def summary(report: "Report", config: dict[str, Any], share: float) -> str:
    """Return the number of rows, the first row with each fault, and what to do if there is any."""
    from hdvl.data.lint import FAULTS

    lines = [f"{rows:>9,} rows of {label}" for label, rows in report.rows.items()]
    for fault, count in report.counts().items():
        if count:
            lines.append(f"{count:>9,} {fault}: {FAULTS[fault]}")
            first = next(f for f in report.findings if fault in dict(f.faults))
            lines.append(f"{'':>9} {first.name}: {dict(first.faults)[fault][:200]}")
    share_text = f"{100 * share:>8.2f}% to leave out"
    lines.append(f"{share_text}; data.max_bad is {100 * config['data']['max_bad']:g}%")
    lines.append(
        f"  written {config['report']} and, with the rows to leave out, {config['quarantine']}"
    )
    if report.findings:
        lines.append(f"every row with a fault is in {config['report']}; {_advice(report, config)}")
    return "\n".join(lines)


def _advice(report: "Report", config: dict[str, Any]) -> str:
    """Return what to do about the rows with faults."""
    from hdvl.data.folders import ADVICE, are_missing_images

    reasons = [dict(finding.faults).get("image", "") for finding in report.findings]
    if are_missing_images(reasons, sum(report.rows.values())):
        return ADVICE
    return f"leave them out with data.train.quarantine={config['quarantine']}"


def show(config: dict[str, Any]) -> None:
    """Print the summary; exit code 1 if the share of rows to skip exceeds ``data.max_bad``."""
    config = resolve(with_init_from(config, given_values()))
    report, share = run(config)
    print(summary(report, config, share))
    sys.exit(1 if share > config["data"]["max_bad"] else 0)


def main() -> None:
    """Run the command."""
    command("data_lint", show)


if __name__ == "__main__":
    main()
