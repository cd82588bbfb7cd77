"""Totals of a run, which continue after interruptions."""

from pathlib import Path

import pytest

from hdvl.training.curves import read_curves
from hdvl.training.run import resumed, run
from tests.training.runs import Colours, Feeder, config

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")]


def test_totals_continue_after_a_crash(watched: Path, tmp_path: Path) -> None:
    whole = read_curves(watched / "metrics.csv")
    assert list(whole["total/samples"].values()) == [4, 8, 12, 16, 20]

    def crash() -> None:
        raise MemoryError("killed")

    folder = tmp_path / "run"
    with pytest.raises(MemoryError):
        run(config(folder), Feeder(Colours(18, crash)))
    run(resumed(folder, {}), Feeder())
    again = read_curves(folder / "metrics.csv")
    for name in ("samples", "tokens", "supervised_tokens", "tiles"):
        assert again[f"total/{name}"] == whole[f"total/{name}"]
    seconds = list(again["total/seconds"].values())
    assert seconds == sorted(seconds) and seconds[0] > 0
