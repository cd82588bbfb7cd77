"""Checkpoint files: search, integrity and contents. Complete runs are in test_run.py."""

from pathlib import Path
from random import Random

import pytest
import torch

from hdvl.callbacks.checkpointing import Checkpoints
from hdvl.training.checkpoint_files import DirectCheckpointIO, is_whole_file, remember
from hdvl.training.checkpointing import find_checkpoint, step_seed


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
def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    previous, last = write(tmp_path, "previous.ckpt"), write(tmp_path, "last.ckpt")
    content = bytearray(last.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a complete checkpoint and is skipped"):
        assert find_checkpoint(tmp_path) == previous


def test_without_a_whole_checkpoint_nothing_is_found(tmp_path: Path) -> None:
    for name in ("previous.ckpt", "last.ckpt"):
        write(tmp_path, name).write_bytes(b"damaged")
    with (
        pytest.warns(UserWarning, match="is not a complete checkpoint"),
        pytest.raises(
            ValueError, match=r"must hold a whole checkpoint, last\.ckpt and previous\.ckpt"
        ),
    ):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("summed", [True, False])
def test_every_flipped_bit_is_detected_or_harmless(tmp_path: Path, summed: bool) -> None:
    """With checksums every flipped bit is found; without them the loaded values are unchanged."""
    path, weight = tmp_path / "last.ckpt", torch.arange(40)
    files = DirectCheckpointIO()
    files.save_checkpoint({"weight": weight}, path)
    if summed:
        remember(tmp_path, files.written, ("last.ckpt", "previous.ckpt"))
    assert is_whole_file(path)
    content = path.read_bytes()
    random = Random(0)
    ends = range(8 * (len(content) - 500), 8 * len(content))  # the zip directory
    for bit in [*random.sample(ends, 150), *random.sample(range(8 * len(content)), 50)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if is_whole_file(path):
            assert not summed, f"bit {bit}"
            assert torch.equal(torch.load(path, weights_only=True)["weight"], weight), f"bit {bit}"


def test_checkpoints_without_checksums_are_valid(tmp_path: Path) -> None:
    write(tmp_path, "last.ckpt")
    remember(tmp_path, (1, 2), ("last.ckpt", "previous.ckpt"))
    assert is_whole_file(tmp_path / "last.ckpt")


def test_a_checkpoint_is_written_atomically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    DirectCheckpointIO().save_checkpoint({"step": 3}, tmp_path / "last.ckpt.part")
    assert torch.load(tmp_path / "last.ckpt.part", weights_only=True) == {"step": 3}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt.part"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.ckpt\.part'"):
        DirectCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, path)


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
