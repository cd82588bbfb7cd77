"""Complete runs with parts of a few thousand parameters: stages, resumption, Ctrl-C and written files."""

import errno
import gc
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hdvl.checkpoints import load_folder
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.training.checkpoint_files import SummedFile
from hdvl.training.metrics import read_metrics
from hdvl.training.run import Stopped, _check_folder, _clear_stages, resumed, run
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
        assert list(values) == [1, 2, 3, 4, 5]
        found += list(values.values())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(folder), Feeder())
    return folder


@pytest.mark.slow
def test_a_run_writes_a_model_and_its_documentation(whole: Path) -> None:
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
@pytest.mark.parametrize(("at", "number"), [(6, signal.SIGINT), (26, signal.SIGTERM)])
def test_a_signal_saves_and_stops(
    whole: Path, tmp_path: Path, at: int, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match=f"resume with: hdvl train resume={folder}") as caught:
        run(config(folder), Feeder(Colours(at, lambda: os.kill(os.getpid(), number))))
    assert caught.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert (
        f"{'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}: saving" in capsys.readouterr().out
    )
    stage = "1-align" if at < 20 else "2-all"
    state = torch.load(folder / stage / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert not (folder / stage / "finished").exists()
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_an_incomplete_checkpoint_is_skipped(whole: Path, tmp_path: Path) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(20, crash)))
    last = folder / "1-align" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a complete checkpoint"):
        run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    plain = config(tmp_path / "run", "optimizer.schedule=constant", "callbacks.progress.interval=0")
    plain["stages"] = None
    run(plain, Feeder())
    run(resumed(tmp_path / "run", {"trainer.max_steps": 7}), Feeder())
    values = read_metrics(tmp_path / "run" / "metrics.csv", "train/loss")
    assert list(values) == list(range(1, 8))


@pytest.mark.slow
def test_a_longer_run_goes_by_its_own_schedule(tmp_path: Path) -> None:
    """From the first step on, and with the given learning rate."""
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
        assert [found[step] for step in (6, 7)] == [rates[name][step] for step in (6, 7)]
        state = torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)
        decays = {group["weight_decay"] for group in state["optimizer_states"][0]["param_groups"]}
        assert decays == {0.0, decay}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("wrong", ["trainer.max_steps=-1", "trainer.max_epochs=0"])
def test_a_run_without_an_end_is_refused(tmp_path: Path, wrong: str) -> None:
    key, value = wrong.split("=")
    with pytest.raises(ValueError, match=rf"{key} must be .* got {value}"):
        run(config(tmp_path / "run", wrong), Feeder())
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_step_is_no_run(tmp_path: Path) -> None:
    for name in ("train.yaml", "first_batch.html", "events.out.tfevents.1.old", "hparams.yaml"):
        (tmp_path / name).write_text("old")
    (tmp_path / "metrics.csv").write_text("step,name,value\n")
    stages = [{"run_dir": str(tmp_path), "callbacks": {}}]
    _check_folder(tmp_path, stages, resume=False)
    _clear_stages(stages)
    assert not (tmp_path / "first_batch.html").exists()
    assert not list(tmp_path.glob("events*"))


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("seed: 0\n")
    (tmp_path / "2-all").mkdir()
    (tmp_path / "2-all" / "metrics.csv").write_text("step,name,value\n1,train/loss,1.0\n")
    with pytest.raises(
        ValueError, match=r"run_dir must be a new folder, .* contains a run; resume it"
    ):
        run(config(tmp_path), Feeder())
    assert (tmp_path / "train.yaml").read_text() == "seed: 0\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        (1, {"tuning": {"llm": "loar"}}, r"stages\.1 \(all\): tuning\.llm must be one of"),
        (
            1,
            {"optimizer": {"common": {"min_lr_ratio": 2}}},
            r"stages\.1 \(all\): min_lr_ratio of encoder must be",
        ),
        (1, {"optimizer": {"common": {"warmup_steps": 9}}}, r"warmup_steps of .* must be below"),
        (1, {"trainer": {"accelerator": "abacus"}}, r"stages\.1 \(all\): trainer: .*abacus"),
        (
            1,
            {"callbacks": {"guard": {"spike": -1.0}}},
            r"stages\.1 \(all\): spike must be",
        ),
        (0, {"data": {"batch_size": 0}}, r"stages\.0 \(align\): data\.batch_size must be"),
    ],
)
def test_every_stage_is_checked_before_anything_is_written(
    tmp_path: Path, stage: int, change: dict[str, Any], said: str
) -> None:
    plain = config(tmp_path / "run")
    plain["stages"][stage].update(change)
    with pytest.raises(ValueError, match=said):
        run(plain, Feeder())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_failed_before_its_first_step_is_used_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no such image")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="no such image"):
        run(config(folder), Feeder(Colours(1, fail)))
    assert (folder / "train.yaml").exists() and not (folder / ".lock").exists()
    plain = config(folder)
    plain["stages"] = plain["stages"][1:]
    run(plain, Feeder())
    assert yaml.safe_load((folder / "train.yaml").read_text())["stages"][0]["name"] == "all"


@pytest.mark.slow
def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    model = (folder / "model" / "model.safetensors").read_bytes()
    changes = {"stages.1.trainer.max_steps": 7}
    for name in ("last.ckpt", "previous.ckpt"):
        path = folder / "2-all" / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-100])
    with (
        pytest.warns(UserWarning, match="is not a complete checkpoint"),
        pytest.raises(
            ValueError, match=r"2-all/checkpoints must hold a whole checkpoint, last\.ckpt"
        ),
    ):
        run(resumed(folder, changes), Feeder())
    shutil.rmtree(folder / "2-all" / "checkpoints")
    with pytest.raises(ValueError, match=r"resume needs the checkpoints of .*2-all, .* are gone"):
        run(resumed(folder, changes), Feeder())
    assert (folder / "model" / "model.safetensors").read_bytes() == model


@pytest.mark.slow
def test_a_full_disk_error_names_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote = SummedFile.write

    def full(file: SummedFile, data: Any) -> int:
        if saved.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return wrote(file, data)

    folder = tmp_path / "run"
    saved = folder / "1-align" / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(SummedFile, "write", full)
    with pytest.raises(
        OSError, match=r"could not write .*last\.ckpt\.part: No space left"
    ) as caught:
        run(config(folder), Feeder())
    assert f"{saved} of step 2 is whole" in str(caught.value)
    assert f"resume with: hdvl train resume={folder}" in str(caught.value)
    assert not saved.with_name("last.ckpt.part").exists()


def test_wrong_resumptions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume must be a run folder with train\.yaml"):
        resumed(tmp_path, {})
    (tmp_path / "train.yaml").write_text("trainer: {max_steps: 3}\n")
    with pytest.raises(ValueError, match=r"trainer\.max_step is no key of the run's config"):
        resumed(tmp_path, {"trainer.max_step": 4})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(whole: Path, tmp_path: Path, precision: str) -> None:
    """The losses equal those of float32, and the model is saved in the dtype of the training."""
    plain = config(tmp_path / "run", f"trainer.precision={precision}")
    plain["callbacks"]["precise"] = {"_target_": "tests.training.runs.Precise"}
    run(plain, Feeder())
    torch.testing.assert_close(losses(tmp_path / "run"), losses(whole), rtol=0, atol=0.02)
    kept = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    model = load_folder(tmp_path / "run" / "model")
    assert {p.dtype for p in model.parameters()} == {kept[precision]}
    assert model.state_dict().keys() == load_folder(whole / "model").state_dict().keys()


@pytest.mark.slow
def test_rows_of_metrics_hold_means(tmp_path: Path) -> None:
    """Also of a run that is stopped between two rows and goes on."""
    run(runs.config(tmp_path / "each"), Feeder())
    singles = runs.losses(tmp_path / "each")
    wanted = {2: sum(singles[:2]) / 2, 4: sum(singles[2:4]) / 2}
    run(runs.config(tmp_path / "rows", "trainer.log_every_n_steps=2"), Feeder())
    rows = read_metrics(tmp_path / "rows" / "metrics.csv", "train/loss")
    names = "train/gradient_norm"
    norms = list(read_metrics(tmp_path / "each" / "metrics.csv", names).values())
    norm_rows = read_metrics(tmp_path / "rows" / "metrics.csv", names)
    means = {2: sum(norms[:2]) / 2, 4: sum(norms[2:4]) / 2}
    assert norm_rows == pytest.approx(means, rel=1e-6)
    assert rows == pytest.approx(wanted, rel=1e-6)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "stopped"
    with pytest.raises(Stopped, match="stopped and saved"):
        run(runs.config(folder, "trainer.log_every_n_steps=2"), Feeder(Colours(11, stop)))
    run(resumed(folder, {}), Feeder())
    found = read_metrics(folder / "metrics.csv", "train/loss")
    assert {step: found[step] for step in rows} == rows
    found_norms = read_metrics(folder / "metrics.csv", names)
    assert {step: found_norms[step] for step in norm_rows} == norm_rows
    assert found.keys() - rows.keys() == {3}, "the step at which it stopped has a row, too"


class Validated(Feeder):
    """Also validates, on images of their own."""

    def __init__(self, held_out: Colours) -> None:
        super().__init__()
        self.held_out = held_out

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        data = super().__call__(config, vlm, seed=seed)
        data.validation = self.held_out
        return data


@pytest.mark.slow
def test_a_signal_during_a_validation_saves_at_its_next_batch(tmp_path: Path) -> None:
    """Steps 2 and 4 are validated on five batches; the signal comes in the second batch of the first."""
    changes = ("trainer.val_check_interval=4", "trainer.limit_val_batches=5")
    changes = (*changes, "trainer.check_val_every_n_epoch=null", "~callbacks.answers")
    run(runs.config(tmp_path / "whole", *changes), Validated(Colours()))
    wanted = read_metrics(tmp_path / "whole" / "metrics.csv", "validation/loss")

    folder = tmp_path / "stopped"
    held_out = Colours(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped and saved") as caught:
        run(runs.config(folder, *changes), Validated(held_out))
    assert caught.value.code == 128 + signal.SIGTERM
    assert held_out.calls == 4, "nothing was validated after that batch"
    assert not read_metrics(folder / "metrics.csv", "validation/loss")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    run(resumed(folder, {}), Validated(Colours()))
    assert runs.losses(folder) == runs.losses(tmp_path / "whole")
    found = read_metrics(folder / "metrics.csv", "validation/loss")
    assert wanted.keys() == {2, 4} and found == {4: wanted[4]}


@pytest.mark.slow
def test_no_data_worker_outlives_a_run_stopped_before_a_validation(tmp_path: Path) -> None:
    """A worker ignores the SIGTERM that Python sends at its exit, and Python then waits for it for ever."""
    stop = Colours(3, lambda: os.kill(os.getppid(), signal.SIGINT))  # in the worker
    data = Validated(Colours())
    data.colours = stop
    changes = ("data.num_workers=1", "trainer.limit_val_batches=1", "~callbacks.answers")
    gc.disable()  # the end of a worker must not depend on when its loader is collected
    try:
        with pytest.raises(Stopped, match="stopped and saved"):
            run(runs.config(tmp_path / "run", *changes), data)
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()
