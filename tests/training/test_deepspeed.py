"""DeepSpeed trains, saves and resumes like a single process.

DeepSpeed and Lightning's strategy require CUDA; here they are patched to use the CPU.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hdvl.checkpoints import load_folder
from hdvl.config import compose, to_plain
from hdvl.training.checkpoint_formats import read_weights
from hdvl.training.metrics import read_metrics
from hdvl.training.run import run
from hdvl.training.tuning import apply_tuning, merge_lora
from tests.training.runs import MIXED, SMALL, Feeder, free_ports, killed, losses, mixed, rank_main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(which("g++") is None, reason="DeepSpeed compiles what it needs on a CPU"),
    pytest.mark.filterwarnings("ignore"),  # DeepSpeed's own
]
pytest.importorskip("deepspeed")
STILL = ["trainer.accumulate_grad_batches=1"]
ZERO = [
    *STILL,
    "trainer=deepspeed",
    "trainer.accelerator=cpu",
    "+trainer.strategy.process_group_backend=gloo",
]


def on_cpu() -> None:
    """Let DeepSpeed and Lightning's strategy run without CUDA."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
    from lightning.pytorch.strategies import deepspeed as lightning

    import hdvl.training.deepspeed as ours

    cuda = SimpleNamespace(is_available=lambda: True)
    setattr(ours, "torch", SimpleNamespace(cuda=cuda, as_tensor=torch.as_tensor))  # noqa: B010
    changes: dict[str, Any] = {
        "setup_environment": DDPStrategy.setup_environment,
        "root_device": property(lambda self: torch.device("cpu", 0)),
    }
    for name, value in changes.items():
        setattr(DeepSpeedStrategy, name, value)
    setattr(lightning, "_validate_device_index_selection", lambda devices: None)  # noqa: B010


def two_ranks(rank: int, ports: Sequence[int], jobs: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    on_cpu()
    rank_main(rank, ports, jobs)


def one_rank(rank: int, port: int, folder: Path) -> None:
    """A run, the same killed and gone on with, and one that goes on with another strategy."""
    on_cpu()
    os.environ["MASTER_PORT"] = str(port)
    warnings.simplefilter("ignore")
    run(mixed(folder / "run", *ZERO, "trainer.devices=1"), Feeder())
    run(killed(folder / "run", 5, folder / "again", {}), Feeder())
    assert losses(folder / "again") == losses(folder / "run")
    with pytest.raises(ValueError, match=r"must be that of trainer=deepspeed, which wrote"):
        run(killed(folder / "run", 5, folder / "other", {"trainer.strategy": "auto"}), Feeder())


def test_one_rank(tmp_path: Path) -> None:
    run(mixed(tmp_path / "alone", *STILL), Feeder())
    torch.multiprocessing.spawn(one_rank, args=(*free_ports(1), tmp_path), nprocs=1)
    ours, theirs = tmp_path / "run", tmp_path / "alone"
    check_equal(ours, theirs)
    names = ("train/gradient_norm", "train/loss")
    for name in names:
        here, there = (read_metrics(folder / "metrics.csv", name) for folder in (ours, theirs))
        assert here == pytest.approx(there, rel=1e-4) and min(here.values()) > 0
    model, saved = load_folder(ours / "model"), load_folder(ours / "model")
    for parameter in model.parameters():
        parameter.data.zero_()
    apply_tuning(model, to_plain(compose(*SMALL, *MIXED).tuning))
    read_weights(ours / "checkpoints" / "last.ckpt", model)
    merge_lora(model)
    for key, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=key)


def test_two_ranks(tmp_path: Path) -> None:
    run(mixed(tmp_path / "alone"), Feeder())
    two = [*ZERO, "trainer.devices=2"]
    jobs = [
        ("run", (mixed(tmp_path / "run", *two),)),
        ("run", (mixed(tmp_path / "bf16", *two, "trainer.precision=bf16-true"),)),
    ]
    torch.multiprocessing.spawn(two_ranks, args=(free_ports(2), jobs), nprocs=2)
    check_equal(tmp_path / "run", tmp_path / "alone")
    alone = losses(tmp_path / "alone")
    torch.testing.assert_close(losses(tmp_path / "bf16"), alone, rtol=0, atol=0.02)


def check_equal(ours: Path, theirs: Path) -> None:
    torch.testing.assert_close(losses(ours), losses(theirs), rtol=0, atol=1e-5)
    here, there = (load_folder(folder / "model").state_dict() for folder in (ours, theirs))
    for key, value in there.items():
        torch.testing.assert_close(here[key], value, rtol=0, atol=1e-4, msg=key)
