"""Every metric equals recorded outputs of its official scorer, and the tool that compares says so.

The files under official/ hold made-up inputs with what the public scorers printed for them.
"""

import json
import subprocess
import sys
from pathlib import Path

import check_eval_parity
import pytest
from check_eval_parity import CHECKS, TOLERANCE, TOLERANCES, difference

FOLDER = Path(__file__).parent / "official"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_equals_the_official_scorer(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    compared = list(CHECKS[path.stem](data))
    assert compared
    tolerance = TOLERANCES.get(path.stem, TOLERANCE)
    wrong = [row for row in compared if not difference(row[1], row[2]) <= tolerance]
    assert not wrong


def test_the_tool_passes_a_folder_that_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_eval_parity.main([str(FOLDER)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in FILES]


def test_the_tool_fails_on_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = {"prediction": "Paris", "answers": ["Paris"], "rrc_official": 0.9}
    (tmp_path / "anls.json").write_text(json.dumps({"cases": [case]}))
    assert check_eval_parity.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 values, worst difference 0.1" in printed
    assert "'Paris' rrc_official: got 1.0, the official scorer 0.9" in printed


def test_the_tool_fails_on_a_file_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_eval_parity.main([str(tmp_path)]) == 1
    (tmp_path / "metre.json").write_text("{}")
    assert check_eval_parity.main([str(tmp_path)]) == 1
    assert "has no check; the checks are" in capsys.readouterr().out
    assert check_eval_parity.main([]) == 2


@pytest.mark.parametrize(
    "got, expected, apart",
    [
        (1, 1.5, 0.5),
        (True, 1, float("inf")),
        (None, 0, float("inf")),
        (None, None, 0.0),
        (float("nan"), float("nan"), 0.0),
        (float("inf"), float("inf"), 0.0),
        ({"a": 1}, {"a": 3}, 2.0),
        ({"a": 1}, {"b": 1}, float("inf")),
        ([1, 2], [1], float("inf")),
        ((1, 2), [1, 4], 2.0),
        ("a", "b", float("inf")),
    ],
)
def test_differences(got: object, expected: object, apart: float) -> None:
    assert difference(got, expected) == apart


def test_the_metrics_import_without_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, hdvl.evaluation.metrics as m\n"
        "names = [i.name for i in pkgutil.iter_modules(m.__path__)]\n"
        "[importlib.import_module(f'{m.__name__}.{name}') for name in names]\n"
        "loaded = {'torch', 'transformers', 'pandas', 'hydra'} & set(sys.modules)\n"
        "print(len(names), sorted(loaded))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, loaded = run.stdout.split(maxsplit=1)
    assert int(count) > 25
    assert loaded.strip() == "[]"
