"""The tasks that an earlier command answered in the same folder, which its report keeps."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hdvl.files import read_json

REPORT, CONFIG = "report.json", "config.json"
"""``config.json`` has the tasks of a folder and where their data are, for a later comparison."""


def earlier_tasks(
    folder: Path, names: Collection[str], model: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The summaries in the report of ``folder``; those of ``names`` will be replaced in their place.

    A task whose folder was removed is left out.

    Raises:
        ValueError: another model answered a task that is not one of ``names``.
    """
    if not (folder / REPORT).is_file():
        return {}
    report = read_json(folder / REPORT)
    found = {name: one for name, one in report["tasks"].items() if (folder / name).is_dir()}
    others = [name for name in found if name not in names]
    if others and report["model"] != json.loads(json.dumps(model, default=str)):
        raise ValueError(
            f"outputs must be a folder of this model, another model or other settings answered "
            f"{', '.join(others)} in {folder}; give another folder, or remove this one"
        )
    return found


def task_config(folder: Path, name: str) -> tuple[dict[str, Any], str | None]:
    """How a task in ``folder`` was built, as a plain node, and the folder of its data.

    Raises:
        ValueError: the folder does not say so.
    """
    tasks = read_json(folder / CONFIG)["task"]
    if "node" not in tasks.get(name, ()):
        raise ValueError(
            f"{folder / CONFIG} must say how {name} was read, it does not; run the hdvl evaluate of {name} "
            "again, which asks no question twice"
        )
    return tasks[name]["node"], tasks[name]["data_dir"]
