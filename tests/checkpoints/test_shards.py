"""Weight files of bounded size, written tensor by tensor, are read by the safetensors library."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdvl.checkpoints.shards import DTYPES, find_shards, read_shapes, write_shards


def test_every_type_comes_back(tmp_path: Path) -> None:
    state = {
        f"t.{number}": torch.arange(5).reshape(5, 1).to(dtype)
        for number, dtype in enumerate([torch.bool, *DTYPES])
    }
    state |= {
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "turned": torch.ones(2, 3).t(),
    }
    state["名"] = torch.ones(1, dtype=torch.bfloat16)
    write_shards(state, tmp_path, max_bytes=10**6)
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == set(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_the_same_values_as_the_library_writes(tmp_path: Path) -> None:
    state = {name: torch.randn(4, 4) for name in "cab"}
    write_shards(state, tmp_path, max_bytes=10**6)
    save_file(state, tmp_path / "other.safetensors", metadata={"format": "pt"})
    sizes = [
        (tmp_path / name).stat().st_size for name in ("model.safetensors", "other.safetensors")
    ]
    assert sizes[0] == sizes[1]


def test_values_are_asked_for_one_after_the_other(tmp_path: Path) -> None:
    layouts = {name: torch.empty(10, device="meta") for name in "abcd"}
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return torch.full((10,), float(ord(name)))

    write_shards(layouts, tmp_path, max_bytes=80, read=read)
    assert asked == list("abcd")
    files = find_shards(tmp_path)
    assert len(files) == 2 and read_shapes(files) == dict.fromkeys("abcd", (10,))
    assert load_file(files[1])["c"].eq(ord("c")).all()


def test_values_that_are_not_as_announced(tmp_path: Path) -> None:
    layouts = {"a": torch.empty(3, device="meta")}
    with pytest.raises(
        ValueError, match=r"a must be \(3,\) of torch.float32, got \(3,\) of torch.float16"
    ):
        write_shards(layouts, tmp_path, max_bytes=80, read=lambda _: torch.ones(3).half())
    with pytest.raises(ValueError, match="max_shard must be at least 1 byte, got 0"):
        write_shards(layouts, tmp_path, max_bytes=0)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_shards({"weight": torch.zeros(100_000)}, tmp_path, max_bytes=10**6)
