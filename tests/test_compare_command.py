"""``hdvl compare``: prints the differences between runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hdvl.cli import as_overrides
from hdvl.compare import config_table, last, metric_table, run
from hdvl.config import compose, resolve
from hdvl.plain import flatten
from hdvl.training.sweeps import write_job


def write(folder: Path, rate: float, losses: list[float], **keys: Any) -> Path:
    """A run folder of two stages; the second stage lasts as long as ``losses``."""
    plain = {
        "seed": 0,
        "run_dir": str(folder),
        "optimizer": {"common": {"lr": rate, "betas": [0.9, 0.95]}},
        "stages": [{"name": "align"}, {"name": "all", "trainer": {"max_steps": len(losses)}}],
        **keys,
    }
    (folder / "1-align").mkdir(parents=True)
    (folder / "2-all").mkdir()
    (folder / "train.yaml").write_text(yaml.safe_dump(plain))
    (folder / "1-align" / "metrics.csv").write_text("step,name,value\n1,train/loss,9.0\n")
    rows = [f"{step},train/loss,{loss}\n" for step, loss in enumerate(losses, 1)]
    rows += [f"{len(losses)},total/tokens,{100 * len(losses)}.0\n"]
    rows += ["2,validation/answers,0.25\n", "1,speed/tiles_per_second,3.0\n"]
    (folder / "2-all" / "metrics.csv").write_text("step,name,value\n" + "".join(rows))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two runs that differ in the rate and in length."""
    one = write(tmp_path / "a", 1e-3, [4.0, 3.0])
    return [one, write(tmp_path / "b", 2e-3, [4.0, 2.0, 2.5], note="longer")]


def test_only_what_differs_is_listed(two: list[Path]) -> None:
    assert config_table(two) == [
        ["optimizer.common.lr", "0.001", "0.002"],
        ["stages.1.trainer.max_steps", "2", "3"],
        ["note", "-", "longer"],
    ]


def test_metrics_stand_side_by_side(two: list[Path]) -> None:
    rows = {row[0]: row[1:] for row in metric_table(two, None, 0.05)}
    assert rows == {
        "steps": ["2", "3", "+1"],
        "1-align train/loss last": ["9", "9", "+0"],
        "1-align train/loss best": ["9", "9", "+0"],
        "2-all train/loss last": ["3", "2.5", "-0.5"],
        "2-all train/loss best": ["3", "2", "-1"],
        "2-all total/tokens": ["200", "300", "+100"],
        "2-all validation/answers last": ["0.25", "0.25", "+0"],
        "2-all validation/answers best": ["0.25", "0.25", "+0"],
    }
    chosen = metric_table(two, ["speed/tiles_per_second"], 0.05)
    assert [row[0] for row in chosen] == [
        *("steps", "2-all speed/tiles_per_second last", "2-all speed/tiles_per_second best")
    ]


def test_a_run_without_a_metric_has_a_dash(two: list[Path], tmp_path: Path) -> None:
    bare = write(tmp_path / "c", 1e-3, [4.0])
    (bare / "2-all" / "metrics.csv").unlink()
    rows = {row[0]: row[1:] for row in metric_table([*two, bare], None, 0.05)}
    assert rows["2-all total/tokens"] == ["200", "300", "-"]  # three runs: no difference
    assert rows["steps"] == ["2", "3", "1"]


def test_the_last_value_is_a_mean() -> None:
    curve = {step: float(step) for step in range(40)}
    assert last(curve, 0.05) == 38.5 and last({0: 2.0}, 0.05) == 2.0


def test_configs_are_flattened() -> None:
    assert dict(flatten({"a": {"b": {}}, "c": [], "d": [{"e": None}]})) == {
        "a.b": {},
        "c": [],
        "d.0.e": None,
    }


def compare(*overrides: str) -> None:
    run(resolve(compose(*overrides, config_name="compare")))


def test_everything_is_printed(two: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    compare(*as_overrides("compare", [str(two[0]), str(two[1])]))
    out = capsys.readouterr().out
    assert re.search(r"^  key +\S+/a +\S+/b$", out, re.MULTILINE)
    assert re.search(r"^  optimizer\.common\.lr +0\.001 +0\.002$", out, re.MULTILINE)
    assert re.search(r"^  2-all train/loss best +3 +2 +-1$", out, re.MULTILINE)
    compare(f"runs=[{two[0]},{two[0]}]")
    assert capsys.readouterr().out.startswith("the configs are the same\n\nmetrics\n")


def test_wrong_runs_are_named(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a run folder, there is no folder '.*/none'"):
        compare(f"runs=[{two[0]},{tmp_path / 'none'}]")
    with pytest.raises(ValueError, match="runs must be at least two folders, got 1"):
        compare(f"runs=[{two[0]}]")
    with pytest.raises(ValueError, match=r"last must be a share in 0\.\.1, got 5"):
        compare(f"runs=[{two[0]},{two[1]}]", "last=5")


def test_bare_words_are_the_runs() -> None:
    words = ["runs/a b", "it's", "last=0.1", "--cfg", "job"]
    assert as_overrides("compare", words) == ['runs=["runs/a b","it\'s"]', *words[2:]]
    assert as_overrides("train", ["experiment"]) == ["experiment"]


def test_the_command_takes_two_words(two: list[Path], root: Path) -> None:
    def hdvl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hdvl", "compare", *words]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    done = hdvl(*map(str, two))
    assert done.returncode == 0 and "2-all total/tokens" in done.stdout, done.stderr
    assert (
        hdvl().stderr
        == "hdvl compare: runs must be given: hdvl compare RUN RUN, or hdvl compare SWEEP\n"
    )


def test_a_sweep_is_one_table_with_a_row_a_job(
    tmp_path: Path, two: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, rate in enumerate((1e-3, 1e-4)):
        folder = write(tmp_path / "sweep" / str(number), rate, [3.0, rate])
        write_job(folder, {"optimizer.common.lr": str(rate)}, "finished", 5.0)
    run({"runs": [str(tmp_path / "sweep")], "metrics": None, "last": 0.05})
    _, head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["job", "optimizer.common.lr"]
    assert (first.split()[:2], second.split()[:2]) == (["1", "0.0001"], ["0", "0.001"])
    with pytest.raises(ValueError, match="runs must all be sweeps or all be runs"):
        run({"runs": [str(tmp_path / "sweep"), str(two[0])], "metrics": None, "last": 0.05})
