"""Checkpoint files: found, whole, and made of plain data. Whole runs are in test_run.py."""

from pathlib import Path

import pytest
import torch

from hdvl.training.checkpointing import Checkpoints, find_checkpoint, step_seed


def write(folder: Path, name: str) -> Path:
    path = folder / name
    torch.save({"weight": torch.arange(1000)}, path)
    return path


def test_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    previous = write(tmp_path, "previous.ckpt")
    assert find_checkpoint(tmp_path) == previous
    last = write(tmp_path, "last.ckpt")
    assert find_checkpoint(tmp_path) == last


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    previous, last = write(tmp_path, "previous.ckpt"), write(tmp_path, "last.ckpt")
    content = bytearray(last.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a whole checkpoint and is passed"):
        assert find_checkpoint(tmp_path) == previous


def test_a_file_that_was_being_written_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "last.ckpt.part")
    assert find_checkpoint(tmp_path) is None


def test_seeds_of_steps_differ() -> None:
    seeds = {step_seed(s, c, (r, 1)) for s in range(3) for c in range(10) for r in range(3)}
    assert len(seeds) == 90
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(0, 1, (2,)) == step_seed(0, 1, (2,))


def test_wrong_interval_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        Checkpoints(folder=str(tmp_path), every_n_steps=0)
