"""Whole runs with parts of a few thousand parameters: stages, resumption, Ctrl-C, what is written."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hdvl.checkpoints import load_folder
from hdvl.model import VLM
from hdvl.training.metrics import read_metrics
from hdvl.training.run import Stopped, resumed, run
from tests.training import runs
from tests.training.runs import Colours, Feeder

pytestmark = [
    # Lightning's own, outside of the part that run() silences.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]


def config(folder: Path, *overrides: str) -> dict[str, Any]:
    """Two stages of five steps: the bridge with dropout in its LoRA, then everything."""
    plain = runs.config(folder, *overrides)
    plain["stages"] = [
        {"name": "align", "tuning": {"encoder": "frozen", "llm": "lora"}},
        {"name": "all", "optimizer": {"groups": {"bridge": {"lr": 1e-3}}}},
    ]
    plain["stages"][0]["tuning"]["lora"] = {"common": {"dropout": 0.2, "rank": 2}}
    return plain


def losses(folder: Path) -> list[float]:
    """All logged losses, stage after stage."""
    found = []
    for stage in ("1-align", "2-all"):
        values = read_metrics(folder / stage / "metrics.csv", "train/loss")
        assert list(values) == list(range(5))
        found += list(values.values())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(folder), Feeder())
    return folder


@pytest.mark.slow
def test_a_run_leaves_a_model_and_its_papers(whole: Path) -> None:
    assert isinstance(load_folder(whole / "model"), VLM)
    assert yaml.safe_load((whole / "train.yaml").read_text())["trainer"]["max_steps"] == 5
    stored = yaml.safe_load((whole / "model" / "config.yaml").read_text())
    assert stored.keys() == {"format", "model"}, "folders of a run mean nothing elsewhere"
    for stage in ("1-align", "2-all"):
        assert list((whole / stage).glob("events.*"))
        state = torch.load(whole / stage / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["global_step"] == 5
        assert state["ChatData"] == {"consumed": 20, "length": 10, "step": 4}
        assert (whole / stage / "checkpoints" / "previous.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 14, 20, 33])
def test_a_crash_loses_nothing(whole: Path, tmp_path: Path, at: int) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(at, crash)))
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)
    ours, theirs = (load_folder(path / "model").state_dict() for path in (folder, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("at", [6, 26])
def test_ctrl_c_saves_and_stops(
    whole: Path, tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match=f"go on with: hdvl train resume={folder}"):
        run(config(folder), Feeder(Colours(at, lambda: os.kill(os.getpid(), signal.SIGINT))))
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C: saving after this step" in capsys.readouterr().out
    stage = "1-align" if at < 20 else "2-all"
    state = torch.load(folder / stage / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert not (folder / stage / "finished").exists()
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(18, crash)))
    last = folder / "1-align" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a whole checkpoint"):
        run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    plain = config(tmp_path / "run", "optimizer.schedule=constant", "callbacks.progress.interval=0")
    plain["stages"] = None
    run(plain, Feeder())
    run(resumed(tmp_path / "run", {"trainer.max_steps": 7}), Feeder())
    values = read_metrics(tmp_path / "run" / "metrics.csv", "train/loss")
    assert list(values) == list(range(7))


@pytest.mark.slow
def test_a_longer_run_goes_by_its_own_schedule(tmp_path: Path) -> None:
    """From the first step on, and with the rate that it is given."""
    twice = ["optimizer.common.lr=4e-4", "optimizer.common.weight_decay=0.3"]
    for name, steps, changes in (("short", 5, []), ("long", 7, []), ("twice", 7, twice)):
        plain = config(tmp_path / name, f"trainer.max_steps={steps}", *changes)
        plain["stages"] = None
        run(plain, Feeder())
    rates = {
        name: read_metrics(tmp_path / name / "metrics.csv", "lr/llm") for name in ("long", "twice")
    }
    for name, lr in (("long", 2e-4), ("twice", 4e-4)):
        again = tmp_path / f"again-{name}"
        shutil.copytree(tmp_path / "short", again)
        decay = 0.05 if name == "long" else 0.3
        changes = {"optimizer.common.lr": lr, "optimizer.common.weight_decay": decay}
        run(resumed(again, {"trainer.max_steps": 7, **changes}), Feeder())
        found = read_metrics(again / "metrics.csv", "lr/llm")
        assert [found[step] for step in (5, 6)] == [rates[name][step] for step in (5, 6)]
        state = torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)
        decays = {group["weight_decay"] for group in state["optimizer_states"][0]["param_groups"]}
        assert decays == {0.0, decay}


@pytest.mark.parametrize("wrong", ["trainer.max_steps=-1", "trainer.max_epochs=2"])
def test_a_run_without_an_end_is_refused(tmp_path: Path, wrong: str) -> None:
    key, value = wrong.split("=")
    with pytest.raises(ValueError, match=rf"{key} must be .* got {value}"):
        run(config(tmp_path / "run", wrong), Feeder())
    assert not (tmp_path / "run").exists()


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match=r"run_dir must be a new folder, .* holds a run; go on"):
        run(config(tmp_path), Feeder())


def test_wrong_resumptions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume must be a run folder with train\.yaml"):
        resumed(tmp_path, {})
    (tmp_path / "train.yaml").write_text("trainer: {max_steps: 3}\n")
    with pytest.raises(ValueError, match=r"trainer\.max_step is no key of the run's config"):
        resumed(tmp_path, {"trainer.max_step": 4})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(whole: Path, tmp_path: Path, precision: str) -> None:
    """The losses are those of float32, and the model is saved and read in what it was trained in."""
    plain = config(tmp_path / "run", f"trainer.precision={precision}")
    plain["callbacks"]["precise"] = {"_target_": "tests.training.runs.Precise"}
    run(plain, Feeder())
    torch.testing.assert_close(losses(tmp_path / "run"), losses(whole), rtol=0, atol=0.02)
    kept = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    model = load_folder(tmp_path / "run" / "model")
    assert {p.dtype for p in model.parameters()} == {kept[precision]}
    assert model.state_dict().keys() == load_folder(whole / "model").state_dict().keys()
