"""Metrics read again."""

from pathlib import Path

from hdvl.training.curves import read_curves


def test_curves_by_name_without_the_incomplete_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n0,a,1.5\n0,b,nan\n1,a,2e-3\n2,a,3")
    curves = read_curves(path)
    assert curves["a"] == {0: 1.5, 1: 0.002}
    assert list(curves) == ["a", "b"]
