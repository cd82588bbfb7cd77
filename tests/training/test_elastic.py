"""A killed run resumes with the same results, also with other workers, ranks and strategies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hdvl.checkpoints import load_folder
from hdvl.data.build import build_data
from hdvl.training.run import resumed, run
from tests.training.runs import (
    MIXED,
    SMALL,
    Feeder,
    free_ports,
    killed,
    losses,
    mixed,
    rank_main,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]
PACKING = "data.packing={tokens: 160, tiles: 6, window: 6}"
TWO = {"trainer.devices": 2, "trainer.accumulate_grad_batches": 1}
ONE = {"trainer.devices": 1, "trainer.accumulate_grad_batches": 2}
SHARDS = {"trainer.strategy": {"_target_": "hdvl.training.sharding.FullySharded"}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs of one process."""
    folder = tmp_path_factory.mktemp("whole")
    run(mixed(folder / "padded"), Feeder())
    run(mixed(folder / "packed", PACKING), Feeder())
    return {name: folder / name for name in ("padded", "packed")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_folder(folder / "model").state_dict()


# Before batch 1 there is no checkpoint yet, before 7 and 11 a step is half done.
@pytest.mark.parametrize("batch", [1, 4, 7, 11, 14])
@pytest.mark.parametrize(
    ("layout", "workers"), [("padded", 0), ("padded", 1), ("padded", 2), ("packed", 1)]
)
def test_killed_anywhere(
    whole: dict[str, Path], tmp_path: Path, layout: str, workers: int, batch: int
) -> None:
    changes = {"data.num_workers": workers}
    run(killed(whole[layout], batch, tmp_path / "run", changes), Feeder())
    assert losses(tmp_path / "run") == losses(whole[layout])
    ours, theirs = weights(tmp_path / "run"), weights(whole[layout])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_and_strategies(whole: dict[str, Path], tmp_path: Path) -> None:
    alone = whole["padded"]
    two = ["trainer.devices=2", "trainer.accumulate_grad_batches=1"]
    again = "callbacks.recompute.parts=[llm]"
    jobs: list[tuple[str, tuple[Any, ...]]] = [
        ("run", (mixed(tmp_path / "ddp", "trainer=ddp", *two),)),
        ("killed", (alone, 9, tmp_path / "1-to-2", {**TWO, "trainer.strategy": "ddp"})),
        ("killed", (whole["packed"], 9, tmp_path / "packed", {**TWO, "trainer.strategy": "ddp"})),
        ("run", (mixed(tmp_path / "fsdp2", "trainer=fsdp2", again, *two),)),
        ("run", (mixed(tmp_path / "bf16", "trainer=fsdp2", "trainer.precision=bf16-true", *two),)),
        ("killed", (tmp_path / "fsdp2", 5, tmp_path / "fsdp2-again", {})),
        ("killed_alone", (tmp_path / "fsdp2", 5, tmp_path / "shards-to-1", ONE)),
    ]
    torch.multiprocessing.spawn(rank_main, args=(free_ports(2), jobs), nprocs=2)
    back = {**ONE, "trainer.strategy": "auto"}
    run(killed(tmp_path / "ddp", 5, tmp_path / "2-to-1", back), Feeder())
    assert losses(tmp_path / "fsdp2-again") == losses(tmp_path / "fsdp2")
    assert (tmp_path / "fsdp2" / "checkpoints" / "last.ckpt").is_dir()
    torch.testing.assert_close(losses(tmp_path / "bf16"), losses(alone), rtol=0, atol=0.02)
    for name in ("ddp", "1-to-2", "2-to-1", "fsdp2", "shards-to-1", "packed"):
        expected = whole["packed" if name == "packed" else "padded"]
        torch.testing.assert_close(losses(tmp_path / name), losses(expected), rtol=0, atol=1e-5)
        ours, theirs = weights(tmp_path / name), weights(expected)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-4, msg=f"{name} {key}")


def test_shards_and_files_are_not_mixed_up(whole: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must be that of trainer=ddp, which wrote .* trainer=fsdp2"
    ):
        run(killed(whole["padded"], 9, tmp_path / "run", SHARDS), Feeder())


def test_steps_keep_their_size(whole: dict[str, Path], tmp_path: Path) -> None:
    changes = {"trainer.accumulate_grad_batches": 1}
    with pytest.raises(
        ValueError, match=r"accumulate_grad_batches \* 2 = 4, got 2; change trainer"
    ):
        run(killed(whole["padded"], 9, tmp_path / "run", changes), Feeder())


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Overrides for twelve rows of data in a file, and an uninterrupted run of one process on them."""
    place, rows = tmp_path_factory.mktemp("coloured"), []
    for index, colour in enumerate(["red", "green", "blue", "white"] * 3):
        name = f"{index}.png"
        Image.new("RGB", (32 + 32 * (index % 2), 32), colour).save(place / name)
        said = {"from": "human", "value": "<image>Colour?"}, {"from": "gpt", "value": colour}
        rows.append({"id": name, "image": name, "conversations": said})
    (place / "rows.json").write_text(json.dumps(rows))
    data = [
        "data=llava",
        f"data.train.path={place / 'rows.json'}",
        f"data.train.image_folder={place}",
        "trainer.max_steps=16",
    ]
    plain = mixed(place / "alone", *data)
    plain["callbacks"].pop("snapshots")
    run(plain, build_data)
    return data, place / "alone"


def two_processes(root: Path, *words: str) -> subprocess.Popen[str]:
    """``hdvl train`` of a run on two ranks, the second of which Lightning starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "hdvl.train", *words],
        cwd=root,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(root: Path, folder: Path, data: list[str]) -> subprocess.Popen[str]:
    """A run on two ranks that has saved a checkpoint."""
    two = ["trainer=ddp", "trainer.devices=2", "trainer.accumulate_grad_batches=1"]
    process = two_processes(root, *SMALL, *MIXED, *data, *two, f"run_dir={folder}")
    checkpoint, end = folder / "checkpoints" / "last.ckpt", time.monotonic() + 600
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return process


def test_kill_9_of_two_processes(
    coloured: tuple[list[str], Path], tmp_path: Path, root: Path
) -> None:
    """One process resumes the run of two."""
    data, alone = coloured
    folder = tmp_path / "killed"
    process = begin(root, folder, data)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "model").exists()
    run(resumed(folder, {**ONE, "trainer.strategy": "auto"}), build_data)
    torch.testing.assert_close(losses(folder), losses(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_processes_stop_and_save_once(
    coloured: tuple[list[str], Path], tmp_path: Path, root: Path, number: signal.Signals
) -> None:
    """A terminal sends Ctrl-C to both processes, a scheduler mostly SIGTERM to the first alone."""
    data, alone = coloured
    folder = tmp_path / "stopped"
    process = begin(root, folder, data)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=300)  # until both have closed their output
    assert process.returncode == 128 + number, said
    assert said.count("saving after this step") == said.count("stopped and saved; resume") == 1
    assert "Traceback" not in said, said
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(losses(folder)) == state["global_step"] < 16
    assert (folder / "model" / "model.safetensors").is_file()
    again = two_processes(root, f"resume={folder}")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"resuming from step {state['global_step']} of" in said
    torch.testing.assert_close(losses(folder), losses(alone), rtol=0, atol=1e-5)
