"""The recipe of the small model: its steps follow each other, and their tools have their options."""

import subprocess
import sys
from pathlib import Path

import make_small
import pytest
import yaml

RECIPE = yaml.safe_load((make_small.TOOLS / "small_recipe.yaml").read_text())


def test_steps_follow_each_other() -> None:
    left = set[str]()
    for step in RECIPE:
        for key in ("from", "head", "heads", "reader"):
            assert step.get(key) is None or step[key] in left
        assert (make_small.TOOLS / f"{step['tool']}.py").is_file()
        left.add(step["out"])
    assert RECIPE[-1]["out"] == "model"


def test_commands_name_what_was_left(tmp_path: Path) -> None:
    grown = next(step for step in RECIPE if step["out"] == "copying")
    words = make_small.command(grown, tmp_path)[2:]
    assert words[:4] == [
        "--init-from",
        str(tmp_path / "grown"),
        "--head",
        str(tmp_path / "grown.checkpoint.pt"),
    ]
    assert words[words.index("--decay") + 1] == "0.8"


def test_a_list_becomes_several_words_and_a_reader_a_folder(tmp_path: Path) -> None:
    begun, last = (step for step in RECIPE if step["tool"] == "train_wide")
    words = make_small.command(begun, tmp_path)
    assert words[words.index("--insert") :][:4] == ["--insert", "1", "3", "--own"]
    words = make_small.command(last, tmp_path)
    assert words[words.index("--reader") + 1] == str(tmp_path / "read")
    assert words[words.index("--heads") + 1] == str(tmp_path / "begun.checkpoint.pt")


def test_a_run_that_was_begun_goes_on(tmp_path: Path) -> None:
    run = next(step for step in RECIPE if step["tool"] == "train_small")
    assert "experiment=small" in make_small.command(run, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.yaml").touch()
    assert make_small.command(run, tmp_path)[2:] == [f"resume={tmp_path / 'run'}"]


def test_a_pattern_names_one_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="must name one path"):
        make_small._single(tmp_path, "*")


@pytest.mark.slow
@pytest.mark.parametrize("tool", sorted({step["tool"] for step in RECIPE} - {"train_small"}))
def test_tools_have_the_options_of_their_steps(tool: str) -> None:
    shown = subprocess.run(
        [sys.executable, make_small.TOOLS / f"{tool}.py", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    for step in RECIPE:
        if step["tool"] == tool:
            options = set(step) - set(make_small._PLACES)
            assert all(f"--{option} " in shown.stdout for option in options)
