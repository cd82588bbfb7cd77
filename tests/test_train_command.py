"""``hdvl train experiment=smoke`` from the command line: it trains, stops, and resumes bit for bit."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hdvl.checkpoints import is_model_folder
from hdvl.training.metrics import read_metrics
from hdvl.training.sweeps import read_jobs, sweep_text, swept_keys
from tests.own_rows import write_rows

pytestmark = pytest.mark.slow
STAGES = ("1-align", "2-instruct")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "hdvl.train", *words]


def losses(folder: Path, stage: str) -> list[float]:
    return list(read_metrics(folder / stage / "metrics.csv", "train/loss").values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A smoke run without a break."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    root = request.config.rootpath
    result = subprocess.run(
        command("experiment=smoke", f"run_dir={folder}"),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stderr
    assert re.search(r"bridge +full +7,296 of +7,296 train", result.stdout)
    assert re.search(r"step 60/60 .* tiles/s .* tok/s .* wait \d+% .* pad \d+%", result.stdout)
    return folder


def test_the_loss_falls(whole: Path) -> None:
    first, second = (losses(whole, stage) for stage in STAGES)
    assert (len(first), len(second)) == (30, 60)
    assert statistics.mean(first[-5:]) < statistics.mean(first[:5])
    assert statistics.mean(second[-5:]) < statistics.mean(first[:5]) / 1.5
    assert is_model_folder(whole / "model")


def test_ctrl_c_and_resume_give_the_same_losses(whole: Path, tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command("experiment=smoke", f"run_dir={folder}", "data.num_workers=0"),
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = folder / "2-instruct" / "metrics.csv"
    while process.poll() is None and (not metrics.exists() or len(metrics.read_text()) < 2000):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"resume with: hdvl train resume={folder}" in output
    assert f"the model as it is now is in {folder / 'model'}" in output
    assert is_model_folder(folder / "model")
    for words in (["experiment=smoke"], ["run_dir=elsewhere"]):
        refused = subprocess.run(
            command(f"resume={folder}", *words), cwd=root, capture_output=True, text=True
        )
        assert refused.returncode != 0
        assert "resume takes the run's own config" in refused.stderr
    # One data worker more than before: how batches are made does not show in the numbers.
    subprocess.run(command(f"resume={folder}", "data.num_workers=1"), cwd=root, check=True)
    for stage in STAGES:
        assert losses(folder, stage) == losses(whole, stage)
    ours, theirs = (path / "model" / "model.safetensors" for path in (folder, whole))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_sweep_has_a_folder_a_job(tmp_path: Path, root: Path) -> None:
    few = [f"stages.{number}.trainer.max_steps=2" for number in range(2)]
    words = ("experiment=smoke", "seed=1,2", f"run_dir={tmp_path}", "--multirun", *few)
    # A word may refer to another key; validation comes between the steps, in weights of bf16.
    words += ("data.validation=${data.train}", "trainer.precision=bf16-true", "data.num_workers=0")
    words += ("trainer.val_check_interval=1", "trainer.limit_val_batches=1")
    result = subprocess.run(command(*words), cwd=root, check=True, capture_output=True, text=True)
    assert re.search(r"job 0 \(1 of 2\) in .*: seed=1\n", result.stdout)
    assert re.search(r"job 1 \(2 of 2\) finished, loss \d", result.stdout)
    jobs = read_jobs(tmp_path)
    assert [job.status for job in jobs] == ["finished"] * 2 and swept_keys(jobs) == ["seed"]
    assert sweep_text(jobs) in result.stdout and (tmp_path / "sweep.csv").is_file()
    assert f"run_dir={tmp_path / '1'}" in (tmp_path / "1" / "command.txt").read_text()
    assert read_metrics(tmp_path / "0" / STAGES[1] / "metrics.csv", "validation/loss")
    first, second = (losses(tmp_path / job, STAGES[0]) for job in ("0", "1"))
    assert len(first) == len(second) == 2 and first != second
    assert all(is_model_folder(tmp_path / job / "model") for job in ("0", "1"))
    several = subprocess.run(
        command(*words, "trainer.devices=2"), cwd=root, capture_output=True, text=True, check=False
    )
    assert "trainer.devices must be 1 with --multirun" in several.stderr


def test_failed_jobs_are_recorded_and_impossible_jobs_are_found_first(
    tmp_path: Path, root: Path
) -> None:
    rows = write_rows(tmp_path, 4)
    words = ("--multirun", "encoder=tiny", "llm=tiny", "data=llava", f"data.train.path={rows}")
    words += ("trainer.max_steps=2", "data.num_workers=0", "trainer.accelerator=cpu")
    (tmp_path / "absent").mkdir()
    folders = f"data.train.image_folder={tmp_path / 'absent'},{tmp_path / 'pictures'}"
    result = subprocess.run(
        command(*words, folders, f"run_dir={tmp_path / 'a'}"),
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    first, second = read_jobs(tmp_path / "a")
    assert first.status.startswith("failed: ") and "absent" in first.status
    assert second.status == "finished"
    impossible = subprocess.run(
        command(*words, "tiler.max_tiles=4,-1", f"run_dir={tmp_path / 'b'}"),
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert impossible.returncode == 1 and impossible.stdout == ""
    assert re.search(
        r"1 of 2 jobs cannot run, none was started: job 1 \(tiler.max_tiles=-1\): ",
        impossible.stderr,
    )
    undone = subprocess.run(
        command("-m", "experiment=smoke", "optimizer.common.lr=1e-3,1e-4"),
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert undone.returncode == 1 and "optimizer.common.lr has no effect" in undone.stderr


def test_optuna_chooses_values(tmp_path: Path, root: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_optuna_sweeper", reason="the extra sweep is not installed"
    )
    words = ("experiment=smoke", "stages=null", "trainer.max_steps=1", "data.num_workers=0")
    words += (
        f"run_dir={tmp_path}",
        "--multirun",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
    )
    words += ("hydra.sweeper.n_jobs=1", "optimizer.common.lr=tag(log,interval(1e-5,1e-3))")
    subprocess.run(command(*words), cwd=root, check=True, capture_output=True)
    jobs = read_jobs(tmp_path)
    assert swept_keys(jobs) == ["optimizer.common.lr"]
    assert [job.status for job in jobs] == ["finished"] * 2
    assert all(1e-5 <= float(job.choices["optimizer.common.lr"]) <= 1e-3 for job in jobs)


def test_a_shipped_model_is_known_by_its_name(tmp_path: Path, root: Path) -> None:
    """Its weights are found in the package, and fit its composition."""
    words = ("init_from=hdvl/small", "data=llava", "data.train.path=absent.json", "stages=null")
    result = subprocess.run(
        command(*words, "model=small", f"run_dir={tmp_path / 'run'}"),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and "absent.json" in result.stderr
    unknown = subprocess.run(
        command("init_from=hdvl/large", "model=small", f"run_dir={tmp_path / 'run'}"),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert unknown.returncode == 1 and "'hdvl/large' is not shipped" in unknown.stderr
