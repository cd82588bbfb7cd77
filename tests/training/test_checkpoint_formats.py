"""Checkpoints of several ranks: complete, incomplete, and read in one process."""

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from torch import nn

from hdvl.training.checkpoint_formats import (
    checkpoint_step,
    is_whole_folder,
    read_weights,
    write_sums,
)
from hdvl.training.checkpointing import find_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*intent is to save in a single process.*")


def write(folder: Path, model: nn.Module, *, world: int = 3) -> Path:
    state = {f"vlm.{name}": value for name, value in model.state_dict().items()}
    sharded.save({"state_dict": state}, checkpoint_id=folder, no_dist=True)
    options = [{"step": 7, "rank": rank, "world": world} for rank in range(world)]
    ranks = [threading.Thread(target=write_sums, args=(folder,), kwargs=own) for own in options]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return folder


def test_weights_and_step_are_read_in_one_process(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 4), nn.Linear(3, 4)
    folder = write(tmp_path / "last.ckpt", model)
    assert is_whole_folder(folder) and checkpoint_step(folder) == 7
    read_weights(folder, other)
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)


@pytest.mark.parametrize("damage", ["cut", "flip", "lost shard", "lost rank", "nothing"])
def test_an_incomplete_folder_is_skipped(tmp_path: Path, damage: str) -> None:
    previous = write(tmp_path / "previous.ckpt", nn.Linear(3, 4))
    last = write(tmp_path / "last.ckpt", nn.Linear(3, 4))
    shard = next(last.glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage in ("cut", "flip"):
        shard.write_bytes(content[: -1 if damage == "cut" else None])
    elif damage == "lost shard":
        shard.unlink()
    elif damage == "lost rank":
        (last / "sums-2.json").unlink()
    else:
        assert find_checkpoint(tmp_path) == last
        return
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a complete checkpoint"):
        assert find_checkpoint(tmp_path) == previous
