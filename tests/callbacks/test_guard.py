"""Steps that are skipped or stop the run: losses that are not finite, and spikes."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from hdvl.callbacks.dump import load_batch
from hdvl.callbacks.guard import BadStep, Guard
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.processor import Processor, collate
from hdvl.training.metrics import read_metrics
from hdvl.training.run import run
from tests.callbacks.fakes import fake_module, fake_trainer
from tests.callbacks.runs import same, two_samples
from tests.training.runs import Colours, Feeder, config


class Steps:
    """Optimizer steps of a small module beside the real model, with given losses."""

    def __init__(self, vlm: VLM, folder: Path, **options: Any) -> None:
        self.batch = collate(two_samples(vlm), pad_id=0)
        self.module = fake_module(nn.Linear(1, 1), vlm=vlm)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.guard = Guard(folder=str(folder), window=4, **options)
        self.trainer = fake_trainer(
            global_step=0,
            global_rank=0,
            is_global_zero=True,
            precision="32-true",
            precision_plugin=SimpleNamespace(),
            strategy=SimpleNamespace(),
            datamodule=ChatData(train=Colours(), processor=Processor.of(vlm), batch_size=1),
        )

    def make(self, loss: float, gradient: float = 1.0) -> bool:
        """One step; whether the weights changed."""
        before = self.module.inner.weight.detach().clone()
        for parameter in self.module.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        self.module.step_loss = torch.tensor(loss)
        self.guard.on_train_batch_start(self.trainer, self.module, self.batch, 0)
        self.guard.on_before_optimizer_step(self.trainer, self.module, self.optimizer)
        self.optimizer.step()
        self.trainer.global_step += 1
        return not torch.equal(before, self.module.inner.weight)


@pytest.mark.parametrize(
    ("loss", "gradient", "said"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (1.0, math.nan, "the loss is 1, but the gradient's norm nan"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    vlm: VLM, tmp_path: Path, loss: float, gradient: float, said: str
) -> None:
    steps = Steps(vlm, tmp_path)
    assert steps.make(1.0)
    before = steps.module.inner.weight.detach().clone()
    with pytest.raises(BadStep, match=f"step 2: {said}; rows: conversation 0, conversation 1; the"):
        steps.make(loss, gradient)
    assert torch.equal(steps.module.inner.weight, before)
    folder = tmp_path / "bad_steps" / "step-000002-rank0"
    assert same(load_batch(folder / "batch-0.safetensors"), steps.batch)


def test_infinite_gradients_are_left_to_the_scaler_in_fp16(vlm: VLM, tmp_path: Path) -> None:
    steps = Steps(vlm, tmp_path)
    steps.trainer.precision_plugin.scaler = object()
    steps.make(1.0, math.inf)
    assert not (tmp_path / "bad_steps").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "16-mixed"])
def test_gradient_norm_with_deepspeed(vlm: VLM, tmp_path: Path, precision: str) -> None:
    """The norm is known after the step; DeepSpeed itself handles gradients that overflow in fp16."""
    steps, norms = Steps(vlm, tmp_path), [1.0, math.inf]
    engine = SimpleNamespace(get_global_grad_norm=lambda: norms.pop(0))
    steps.trainer.strategy.deepspeed_engine = engine
    steps.trainer.precision = precision
    steps.make(1.0)
    end = (steps.trainer, steps.module, None, steps.batch, 0)
    steps.guard.on_train_batch_end(*end)
    steps.make(1.0)
    if precision == "16-mixed":
        steps.guard.on_train_batch_end(*end)
        return
    with pytest.raises(
        BadStep, match="step 2: the loss is 1, but the gradient's norm inf; rows: con"
    ):
        steps.guard.on_train_batch_end(*end)
    assert (tmp_path / "bad_steps" / "step-000002-rank0" / "batch-0.safetensors").exists()


def test_steps_cannot_be_skipped_with_deepspeed(vlm: VLM, tmp_path: Path) -> None:
    steps = Steps(vlm, tmp_path, on_spike="skip")
    steps.trainer.strategy = object.__new__(DeepSpeedStrategy)
    with pytest.raises(
        ValueError, match=r"on_spike must be continue or stop with trainer=deepspeed"
    ):
        steps.guard.on_fit_start(steps.trainer, steps.module)


@pytest.mark.parametrize("on_spike", ["continue", "skip", "stop"])
def test_spikes(
    vlm: VLM, tmp_path: Path, on_spike: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = Steps(vlm, tmp_path, on_spike=on_spike, spike=10.0)
    assert steps.make(50.0)  # too early for a spike
    for loss in (2.0, 2.1, 1.9, 2.0):
        assert steps.make(loss)
    assert steps.guard.limit() == pytest.approx(2.0 + 10 * 0.1)  # a twentieth of the median
    if on_spike == "stop":
        with pytest.raises(BadStep, match=r"step 6: the loss is 9, above 3; rows: conversation 0"):
            steps.make(9.0)
        return
    assert steps.make(9.0) is (on_spike == "continue")
    said = capsys.readouterr().out
    assert "step 6: the loss is 9, above 3" in said
    assert ("left out" if on_spike == "skip" else "made all the same") in said
    assert 9.0 not in steps.guard.losses and steps.make(2.0)


def test_at_most_dumps_spikes_are_written(vlm: VLM, tmp_path: Path) -> None:
    steps = Steps(vlm, tmp_path, dumps=1)
    for loss in (2.0, 2.0, 99.0, 98.0):
        steps.make(loss)
    assert [path.name for path in (tmp_path / "bad_steps").iterdir()] == ["step-000003-rank0"]
    assert steps.guard.spikes == 2


def test_the_state_is_restored(vlm: VLM, tmp_path: Path) -> None:
    steps, again = Steps(vlm, tmp_path), Guard(folder=str(tmp_path), window=4)
    for loss in (2.0, 3.0, 99.0):
        steps.make(loss)
    again.load_state_dict(steps.guard.state_dict())
    assert again.limit() == steps.guard.limit() is not None
    assert again.spikes == 1


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="spike must be above 0, window at least 2"):
        Guard(folder=".", spike=0.0)


def test_a_wrong_action_is_named(unchecked: Any) -> None:
    with unchecked(), pytest.raises(ValueError, match="on_spike must be continue, skip or stop"):
        Guard(folder=".", on_spike="ignore")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_run_that_explodes_keeps_the_weights_from_before(tmp_path: Path) -> None:
    overrides = ("optimizer.common.lr=1e30", "optimizer.common.warmup_steps=0")
    plain = config(tmp_path / "run", *overrides, "callbacks.checkpoints.every_n_steps=1")
    with pytest.raises(BadStep, match=r"step 2: the loss is (nan|inf); rows: conversation \d"):
        run(plain, Feeder())
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 1
    assert list(read_metrics(tmp_path / "run" / "metrics.csv", "train/loss")) == [1]
    dumped = sorted(path.name for path in (tmp_path / "run" / "bad_steps").rglob("*.*"))
    # both micro-batches of the step
    assert dumped == [f"batch-{n}.{kind}" for n in (0, 1) for kind in ("safetensors", "txt")]
