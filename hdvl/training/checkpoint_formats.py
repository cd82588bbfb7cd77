"""Checkpoints of FSDP2 and DeepSpeed, which are folders: checksums, steps and weights."""

import json
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

FillIn = Callable[[dict[str, Any], nn.Module], None]
PREFIX = "vlm."
"""Where the LightningModule keeps the model."""
_ENGINE = "checkpoint/mp_rank_00_model_states.pt"  # Lightning's and DeepSpeed's names


def kind_of(checkpoint: Path) -> str:
    """Return the ``trainer`` choice that writes such a checkpoint: ``ddp``, ``fsdp2`` or ``deepspeed``."""
    if not checkpoint.is_dir():
        return "ddp"
    return "deepspeed" if (checkpoint / _ENGINE).exists() else "fsdp2"


def write_sums(folder: Path, *, step: int, rank: int, world: int) -> None:
    """Write the checksums of this rank's share of the files in ``folder``. All ranks call this."""
    sums = {str(path.relative_to(folder)): _sum(path) for path in _files(folder)[rank::world]}
    text = json.dumps({"step": step, "world": world, "sums": sums})
    (folder / _sums_of(rank)).write_text(text)


def is_whole_folder(folder: Path) -> bool:
    """Return whether every file of every rank is present and has its checksum."""
    try:
        world = json.loads((folder / _sums_of(0)).read_text())["world"]
        for rank in range(world):
            sums = json.loads((folder / _sums_of(rank)).read_text())["sums"]
            if any(_sum(folder / name) != value for name, value in sums.items()):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def checkpoint_step(path: Path) -> int:
    """The optimizer step of a checkpoint, file or folder."""
    if path.is_dir():
        return int(json.loads((path / _sums_of(0)).read_text())["step"])
    return int(torch.load(path, map_location="meta", weights_only=True)["global_step"])


def read_weights(
    path: Path, vlm: nn.Module, fill_in: FillIn = lambda checkpoint, vlm: None
) -> None:
    """Load the weights of a checkpoint, which is a file or a folder, into ``vlm``.

    ``fill_in`` adds the weights that a checkpoint file does not contain (see :mod:`hdvl.training.frozen`).
    """
    if kind_of(path) == "fsdp2":
        from torch.distributed.checkpoint.state_dict_loader import load

        state = {f"{PREFIX}{name}": value for name, value in vlm.state_dict().items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in a single process.*")  # as is meant
            load({"state_dict": state}, checkpoint_id=path, no_dist=True)
        return
    place, key = (path / _ENGINE, "module") if path.is_dir() else (path, "state_dict")
    checkpoint: dict[str, Any] = torch.load(place, map_location="cpu", weights_only=True)
    if place == path:
        fill_in(checkpoint, vlm)
    weights: dict[str, Any] = checkpoint[key]
    vlm.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights.items()})


def _sums_of(rank: int) -> str:
    return f"sums-{rank}.json"


def _files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if not path.name.startswith("sums-")]


def _sum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
