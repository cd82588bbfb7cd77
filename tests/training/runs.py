"""Whole runs of a few thousand parameters on images of one colour, in one process or several."""

import os
import shutil
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import OmegaConf
from PIL import Image

from hdvl.config import compose
from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.model import VLM
from hdvl.precision import frequencies
from hdvl.processor import Processor
from hdvl.protocols import Message
from hdvl.training.metrics import read_metrics
from hdvl.training.run import resumed, run

SMALL = [
    "encoder=conv_stem",
    "encoder.tile_size=32",
    "encoder.width=16",
    "encoder.stem_width=8",
    "encoder.depth=1",
    "tiler.tile_size=32",
    "tiler.stride=32",
    "tiler.multiple_of=32",
    "llm.config.hidden_size=32",
    "llm.config.intermediate_size=32",
    "llm.config.num_hidden_layers=1",
    "llm.tokenizer.vocab_size=320",
    "+llm.config.attention_dropout=0.1",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer.max_steps=5",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.accumulate_grad_batches=2",
    "callbacks.checkpoints.every_n_steps=2",
]
"""Parts of a few thousand parameters; five steps of two micro-batches of two samples, with dropout."""
MIXED = [
    "tuning=bridge_lora",
    "tuning.lora.common.dropout=0.2",
    "tuning.lora.common.rank=2",
    "merger=spatial",
    "trainer.max_steps=8",
    "trainer.logger=[{_target_: hdvl.training.metrics.MetricsFile, folder: '${run_dir}'}]",
]
"""Eight steps of a frozen encoder, a full bridge and merger, and a language model with LoRA."""
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


class Colours:
    """Images of one colour, and its name as the answer; something may happen at one of them."""

    def __init__(self, at: int = -1, happens: Callable[[], None] = lambda: None) -> None:
        self.calls, self.at, self.happens = 0, at, happens

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> list[Message]:
        self.calls += 1
        if self.calls == self.at:
            self.happens()
        name = list(COLOURS)[index % 4]
        image = Image.new("RGB", (32 + 32 * (index % 2), 32), COLOURS[name])
        return [Message("user", "Colour?", (image,)), Message("assistant", name)]


class Feeder:
    """Gives the data module of every stage; all draw from one list of colours."""

    def __init__(self, colours: Colours | None = None) -> None:
        self.colours = colours or Colours()

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        return ChatData(
            train=self.colours,
            processor=Processor.of(vlm),
            batch_size=config["batch_size"],
            num_workers=config["num_workers"],
            packing=None if config["packing"] is None else Budget(**config["packing"]),
            seed=seed,
        )


class Snapshots(pl.Callback):
    """Before every batch a copy of the run folder: what is left if the process is killed there."""

    def __init__(self, *, folder: str, to: str | None) -> None:
        self.folder, self.to, self.number = folder, to, 0

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if self.to is not None and trainer.is_global_zero:
            shutil.copytree(self.folder, f"{self.to}/{self.number}")
            self.number += 1


class Precise(pl.Callback):
    """Each step finds rotary frequencies in float32, and makes new numbers in float32."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        found = frequencies(pl_module.vlm)
        assert found and {buffer.dtype for buffer in found.values()} == {torch.float32}
        with trainer.precision_plugin.train_step_context():
            assert torch.zeros(()).dtype == torch.float32


def config(folder: Path, *overrides: str) -> dict[str, Any]:
    """:data:`SMALL` with changes."""
    composed = compose(*SMALL, f"run_dir={folder}", *overrides)
    plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)
    return plain


def mixed(folder: Path, *overrides: str) -> dict[str, Any]:
    """:data:`MIXED`, with a snapshot before every batch."""
    plain = config(folder, *MIXED, *overrides)
    to = f"{folder}-killed-before"
    target = f"{__name__}.Snapshots"
    plain["callbacks"]["snapshots"] = {"_target_": target, "folder": "${run_dir}", "to": to}
    plain["callbacks"]["precise"] = {"_target_": f"{__name__}.Precise"}
    return plain


def killed(folder: Path, batch: int, to: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """What to run so that ``folder``'s run, killed before ``batch``, goes on, as a copy in ``to``."""
    if not to.exists():
        shutil.copytree(f"{folder}-killed-before/{batch}", to)
    return resumed(to, {"callbacks.snapshots.to": None, **changes}, allow="tests")


def losses(folder: Path) -> list[float]:
    """All logged losses, step after step."""
    values = read_metrics(folder / "metrics.csv", "train/loss")
    assert list(values) == list(range(1, len(values) + 1))
    return list(values.values())


def rank_main(rank: int, ports: Sequence[int], jobs: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    """One of two processes: each of ``jobs``, a function of this module and its arguments.

    Those named ``killed_alone`` are done at the end, by the first process as the only one.
    """
    one_of(rank, 2, ports[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, arguments in jobs:
            if name == "run":
                run(arguments[0], Feeder())
            if name == "killed":
                if rank == 0:
                    killed(*arguments)
                torch.distributed.barrier()
                run(killed(*arguments), Feeder())
        torch.distributed.destroy_process_group()
        one_of(rank, 1, ports[1])
        for name, arguments in jobs:
            if name == "killed_alone" and rank == 0:
                run(killed(*arguments), Feeder())


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nothing listens."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def one_of(rank: int, world: int, port: int) -> None:
    """Make this process one of ``world``."""
    numbers = {"MASTER_PORT": port, "WORLD_SIZE": world, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
