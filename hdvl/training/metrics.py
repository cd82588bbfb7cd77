"""A logger that appends metrics as rows ``step,name,value``. A resumed run appends to the same file.

Steps are counted from 1, as in the terminal: the row of step 5 describes the fifth optimizer step.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from hdvl.files import write_text
from hdvl.training.curves import Curve, read_curves

HEADER = "step,name,value\n"


def read_metrics(path: Path | str, name: str) -> Curve:
    """The values of one metric by step. Empty if it was never logged."""
    return read_curves(path).get(name, {})


def drop_rows_after(path: Path | str, step: int) -> None:
    """Remove the rows of steps after ``step``, written after the checkpoint that a run resumes from."""
    path = Path(path)
    if not path.exists():
        return
    head, *rows = path.read_text().splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    write_text(path, "".join([head, *kept]))


class MetricsFile(Logger):
    """Writes ``folder/metrics.csv``, with all digits of each value, so that equal runs give equal files."""

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"

    @property
    def name(self) -> str:
        """Required by Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """Required by Lightning."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row a metric. ``step`` is Lightning's number of the step, which begins with 0."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        number = 0 if step is None else step + 1
        rows = [f"{number},{name},{float(value)!r}\n" for name, value in metrics.items()]
        fresh = not self.path.exists()
        with self.path.open("a") as file:
            file.write((HEADER if fresh else "") + "".join(rows))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Does nothing: the config is stored in the run folder."""
