"""The designs of the study take equal compute, and its table says how certain its means are."""

import math
from pathlib import Path

import pytest
from make_study import interval, results, table


def test_intervals_are_students() -> None:
    mean, half, count = interval([50.0, 60.0, 70.0])
    assert (mean, count) == (60.0, 3) and half == pytest.approx(
        4.3027 * 10 / math.sqrt(3), abs=1e-3
    )
    assert math.isnan(interval([1.0])[1])


def test_the_table_has_a_row_for_each_design(tmp_path: Path) -> None:
    same = '"steps": 5, "tiles": 2, "tokens": 8, "cpu_seconds": 1.0, "figure": 50'
    row = '{"design": "%s", "seed": %d, "mark": %d, ' + same + "}"
    for name, seed, mark in (("tiles", 0, 40), ("tiles", 1, 60), ("thumbnail", 0, 10)):
        place = tmp_path / name / str(seed)
        place.mkdir(parents=True)
        (place / "result.json").write_text(row % (name, seed, mark))
    rows = results(tmp_path)
    assert [one["design"] for one in rows] == ["thumbnail", "tiles", "tiles"]
    lines = table(rows).splitlines()
    assert lines[2].startswith("| `thumbnail` | 2 | 8 | 5 | 1 | 10 | 50 | 1")
    assert "| 50 ± 127 | 50 ± 0 | 2 |" in lines[3]


@pytest.mark.slow
def test_the_designs_of_the_study_take_equal_compute() -> None:
    from hdvl.config import CONF_DIR, compose, resolve
    from hdvl.meta import on_meta
    from hdvl.training.estimate import measure

    totals = {}
    for path in sorted((CONF_DIR / "experiment/study").glob("*.yaml")):
        config = resolve(compose(f"experiment=study/{path.stem}"))
        vlm = on_meta(config["model"])
        step = measure(vlm, vlm.tiler.plan(256, 256), text_tokens=20).step
        batch = config["data"]["batch_size"]
        totals[path.stem] = step * batch * config["trainer"]["max_steps"]
    assert len(totals) == 10
    assert all(total == pytest.approx(1.2e12, rel=0.03) for total in totals.values()), totals
