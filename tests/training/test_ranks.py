"""Ranks, from the environment variables of launchers."""

import pytest

from hdvl.training.deepspeed import deepspeed
from hdvl.training.ranks import RUN_DIR, is_rank_zero, one_run_dir


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", "LOCAL_RANK", RUN_DIR):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("numbers", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_has_rank_zero(
    monkeypatch: pytest.MonkeyPatch, numbers: dict[str, str], first: bool
) -> None:
    for name, value in numbers.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() is first


def test_all_processes_have_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, "runs/of-an-earlier-job")
    assert one_run_dir("runs/12-00-00", []) == "runs/12-00-00"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert one_run_dir("runs/12-00-07", []) == "runs/12-00-00"
    monkeypatch.delenv(RUN_DIR)
    assert one_run_dir("given", ["run_dir"]) == "given"
    with pytest.raises(ValueError, match="run_dir must be given where a launcher starts"):
        one_run_dir("runs/12-00-07", ["seed"])


def test_missing_requirements_of_deepspeed_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"stage must be 0, 1 or 2, got 3.*trainer=fsdp2"):
        deepspeed(stage=3)
    monkeypatch.setattr("hdvl.training.deepspeed.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'hdvl\[distributed\]'"):
        deepspeed()
