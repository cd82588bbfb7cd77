"""Scores on tasks during training: what is logged, and that the training itself stays the same."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from hdvl.callbacks.evaluate import Evaluate, undisturbed
from hdvl.config import build, compose, to_plain
from hdvl.training.metrics import read_metrics
from hdvl.training.run import run
from tests.callbacks.runs import Watched
from tests.training.runs import config, free_ports, losses, one_of

LOG = "trainer.logger=[{_target_: hdvl.training.metrics.MetricsFile, folder: '${run_dir}'}]"
SUITE = [
    "task=[suite_reading]",
    "task.suite_reading.read.pages=1",
    "task.suite_reading.protocols.official.generation.max_new_tokens=2",
    "tiler.max_tiles=2",
    "callbacks.evaluate.limit=1",
]
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted((folder / "model").glob("*.safetensors"))
    assert files
    return {name: value for file in files for name, value in load_file(file).items()}


@pytest.mark.slow
def test_a_training_that_is_evaluated_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    run(config(plain, LOG, *SUITE, "callbacks.evaluate.task={}"), Watched())
    capsys.readouterr()
    run(config(scored, LOG, *SUITE, "callbacks.evaluate.every_n_steps=2"), Watched())
    assert losses(plain) == losses(scored)  # with dropout, so the random states are equal, too
    ours, theirs = weights(plain), weights(scored)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    found = read_metrics(scored / "metrics.csv", "evaluation/suite_reading")
    assert list(found) == [2, 4] and not any(found.values())
    assert not read_metrics(plain / "metrics.csv", "evaluation/suite_reading")
    said = capsys.readouterr().out
    assert "step 2: suite_reading exact match 0.00" in said and "tiles and" in said
    rows = [
        json.loads(line)
        for line in (scored / "evaluation/step000004/suite_reading.jsonl").read_text().splitlines()
    ]
    assert [row["group"] for row in rows] == ["plain/0"]  # the limit is one question
    assert all(row["score"] == 0.0 and row["images"] for row in rows)


def test_modes_and_random_states_are_restored() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    module[1].eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with undisturbed(module):
        module.eval()
        torch.rand(5)
        assert not module(torch.ones(2)).requires_grad
    assert torch.equal(torch.rand(2), expected)
    assert module[0].training and not module[1].training


def test_mistakes_are_named() -> None:
    task: Any = {"docvqa": build(to_plain(compose("task=docvqa"))["task"]["docvqa"])}
    with pytest.raises(
        ValueError, match=r"callbacks\.evaluate\.data_dir must be given, task=docvqa"
    ):
        Evaluate(folder="none", task=task)
    with pytest.raises(ValueError, match=r"callbacks\.evaluate\.limit must be at least 1"):
        Evaluate(folder="none", limit=0)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(FileNotFoundError, match=r"val_v1\.0\.json"):
        Evaluate(folder="none", task=task, data_dir="none").setup(
            trainer, pl.LightningModule(), "fit"
        )


def two_ranks(rank: int, ports: list[int], folder: Path) -> None:
    one_of(rank, 2, ports[0])
    two = ["trainer=ddp", "trainer.devices=2", "trainer.accumulate_grad_batches=1"]
    run(config(folder, LOG, *SUITE, *two, "callbacks.evaluate.limit=9"), Watched())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_score_each_question_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    torch.multiprocessing.spawn(two_ranks, args=(free_ports(1), folder), nprocs=2)
    files = sorted(folder.glob("evaluation/step*/suite_reading.jsonl"))
    assert files
    for file in files:
        names = [json.loads(line)["id"] for line in file.read_text().splitlines()]
        assert len(names) == len(set(names)) >= 9
