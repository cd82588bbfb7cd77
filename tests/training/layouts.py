"""The same samples laid out over batches, micro-batches and ranks, and the gradients of one step."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from hdvl.config import CONF_DIR, to_plain
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, Sample, collate, pack
from hdvl.protocols import Message
from hdvl.training.module import VLMModule
from tests.tiny_model import tiny_vlm

# All parameters train. Batch norms tie the tiles of a batch together, so the encoder, which has some,
# is in the mode of a frozen one.
TUNING = {"encoder": "frozen", "bridge": "full", "merger": "full", "llm": "full"}


def samples(vlm: VLM) -> list[Sample]:
    """Eight conversations of very different lengths; the second and the sixth are text alone."""
    generator, found = torch.Generator().manual_seed(0), []
    for number in range(8):
        width = 32 * (1 + number % 3)
        noise = torch.randint(256, (32, width, 3), generator=generator).byte()
        images = () if number % 4 == 1 else (Image.fromarray(noise.numpy()),)
        turns = [Message("user", "Say it", images), Message("assistant", "yes " * (1 + number**2))]
        found.append(Processor.of(vlm)(turns))
    return found


class Given(pl.LightningDataModule):
    """Batches for each rank, given beforehand."""

    def __init__(self, ranks: Sequence[Sequence[Batch]]) -> None:
        super().__init__()
        self.ranks = ranks

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        batches = self.ranks[self.trainer.global_rank]
        return torch.utils.data.DataLoader(list(batches), batch_size=None)

    def val_dataloader(self) -> Any:
        return []


class Keep(pl.Callback):
    """Keeps the gradients that the optimizer is about to use, and the loss of the step."""

    found: dict[str, Tensor]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.vlm.named_parameters()
        kept = {name: p.grad.clone() for name, p in named if p.requires_grad}
        self.found = {"loss": pl_module.step_loss, **kept}


def gradients(ranks: Sequence[Sequence[Batch]], **options: Any) -> dict[str, Tensor]:
    """Gradients and loss of one optimizer step over all of ``ranks`` (several: in each of them)."""
    optimizer = to_plain(OmegaConf.load(CONF_DIR / "optimizer" / "adamw.yaml"))
    optimizer["common"]["warmup_steps"] = 0
    module = VLMModule(
        tiny_vlm(),
        optimizer=optimizer,
        tuning=TUNING,
        weighting=options.pop("weighting", "token"),
        first_token_weight=options.pop("first_token_weight", 1.0),
    )
    keep = Keep()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=len(ranks),
        strategy="ddp" if len(ranks) > 1 else "auto",
        max_steps=1,
        max_epochs=-1,
        accumulate_grad_batches=len(ranks[0]),
        logger=False,
        callbacks=[keep],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=Given(ranks))
    return keep.found


def lay_out(found: Sequence[Sample], shape: Sequence[Sequence[int]], how: str) -> list[list[Batch]]:
    """``shape``: for each rank, how many samples each of its micro-batches takes, in order."""
    rest, ranks = list(found), []
    for counts in shape:
        batches = []
        for count in counts:
            some, rest = rest[:count], rest[count:]
            batches.append(pack(some) if how == "packed" else collate(some, pad_id=0))
        ranks.append(batches)
    assert not rest
    return ranks


def two_ranks(rank: int, port: int, cases: Sequence[tuple[Path, Any]]) -> None:
    """One of two processes: :func:`gradients` of each of ``cases``, written by the first."""
    numbers = {"MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, ranks in cases:
            found = gradients(ranks)
            if rank == 0:
                torch.save(found, path)
