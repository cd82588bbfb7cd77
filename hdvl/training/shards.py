"""Checkpoints that are folders, one shard a rank: whole or torn, and what is in them."""

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

PREFIX = "vlm."
"""Where the LightningModule keeps the model."""
_META = "meta.pt"  # Lightning's name for all that is not sharded


def write_sums(folder: Path, *, rank: int, world: int) -> None:
    """Write the checksums of this rank's share of the files of ``folder``; all ranks call it."""
    sums = {str(path.relative_to(folder)): _sum(path) for path in _files(folder)[rank::world]}
    text = json.dumps({"world": world, "sums": sums})
    (folder / f"sums-{rank}.json").write_text(text)


def is_whole_folder(folder: Path) -> bool:
    """Whether every file is there as it was written, by every rank."""
    try:
        world = json.loads((folder / "sums-0.json").read_text())["world"]
        for rank in range(world):
            sums = json.loads((folder / f"sums-{rank}.json").read_text())["sums"]
            if any(_sum(folder / name) != value for name, value in sums.items()):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def checkpoint_step(path: Path) -> int:
    """The optimizer step of a checkpoint, file or folder."""
    place = path / _META if path.is_dir() else path
    return int(torch.load(place, map_location="meta", weights_only=True)["global_step"])


def read_weights(path: Path, vlm: nn.Module) -> None:
    """The weights of a checkpoint, file or folder, into ``vlm``."""
    if path.is_dir():
        from torch.distributed.checkpoint.state_dict_loader import load

        state = {f"{PREFIX}{name}": value for name, value in vlm.state_dict().items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in a single process.*")  # as is meant
            load({"state_dict": state}, checkpoint_id=path, no_dist=True)
        return
    whole: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    vlm.load_state_dict({name.removeprefix(PREFIX): value for name, value in whole.items()})


def _files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not path.name.startswith("sums-")]


def _sum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
