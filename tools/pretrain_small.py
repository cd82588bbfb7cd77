"""Pre-train the small model's encoder and bridge on dense reading labels, without a language model.

    python tools/pretrain_small.py --out runs/small/pretrained

Two phases: which character stands in every 8-px cell (encoder), then which characters, in reading
order, stand in every 16-px token (encoder and bridge). Restartable: started again with the same --out
it goes on from its last checkpoint. Writes a model folder for ``hdvl train initialise=...`` and, beside
it, ``OUT.curve.csv`` (phase, step, seconds, loss, share of inked cells right).
"""

import argparse
import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import hdvl
from hdvl.checkpoints import save_folder
from hdvl.config import to_plain
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.cells import cell_labels, classes, token_labels

TILE, SLOTS = 224, 4
PHASES = {"cells": (1000, 24, 3e-3), "tokens": (600, 24, 1.5e-3)}
"""Steps, tiles a step and peak learning rate of each phase."""


class Labelled(Dataset):
    """Tiles cut out of documents on the 16-px grid, with the labels of their cells or tokens."""

    def __init__(self, seed: int, phase: str) -> None:
        self.phase = phase
        self.documents = SyntheticDocuments(
            seed=seed, width=(224, 640), height=(224, 320), entries=(4, 10), chinese=0.3
        )

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        document = self.documents[index]
        width, height = document.image.size
        generator = torch.Generator().manual_seed(index)
        x, y = (
            16 * int(torch.randint((side - TILE) // 16 + 1, (), generator=generator))
            for side in (width, height)
        )
        pixels = torch.frombuffer(bytearray(document.image.tobytes()), dtype=torch.uint8)
        tile = pixels.view(height, width, 3)[y : y + TILE, x : x + TILE].permute(2, 0, 1)
        cell = 8 if self.phase == "cells" else 16
        labels = (
            cell_labels(document)[0][..., None]
            if self.phase == "cells"
            else token_labels(document, slots=SLOTS)
        )
        side = TILE // cell
        window = labels[y // cell : y // cell + side, x // cell : x // cell + side]
        return tile.contiguous(), window.flatten()


def train(
    phase: str, read: Callable[[Tensor], Tensor], modules: nn.ModuleList, args: argparse.Namespace
) -> None:
    """Train ``modules`` so that ``read(tiles)`` gives the logits of the labels."""
    steps, batch, rate = PHASES[phase]
    parameters = list(modules.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    path = Path(f"{args.out}.{phase}.pt")
    step, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, spent = state["step"], state["seconds"]
    order = range(step * batch, steps * batch)
    data = DataLoader(Labelled(args.seed + len(phase), phase), batch, sampler=order, num_workers=1)
    started = time.monotonic() - spent
    for tiles, labels in data:
        logits = read(tiles).flatten(0, -2)
        wanted = labels.flatten()
        losses = nn.functional.cross_entropy(logits, wanted, reduction="none")
        weights = torch.where(wanted > 0, 1.0, 0.1)  # most of a page is paper
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if step % 25 == 0:
            hits = (logits.argmax(-1) == wanted)[wanted > 0].float().mean().item()
            log(args.out, [phase, step, round(time.monotonic() - started), loss.item(), hits])
        if step % 100 == 0 or step == steps:
            state = {
                "modules": modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step,
                "seconds": time.monotonic() - started,
            }
            torch.save(state, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)


def log(out: Path, row: list) -> None:
    """One line of the curve, on paper and on the screen."""
    with Path(f"{out}.curve.csv").open("a", newline="") as file:
        csv.writer(file).writerow(row)
    print("{}  step {}  {} s  loss {:.4f}  inked right {:.4f}".format(*row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    config = hdvl.compose("model=small")
    vlm = hdvl.build(config.model)
    kinds = len(classes()) + 1
    cells = nn.Linear(vlm.encoder.width, kinds)
    tokens = nn.Linear(vlm.llm.width, SLOTS * kinds)
    train(
        "cells",
        lambda tiles: cells(vlm.encoder(tiles)),
        nn.ModuleList([vlm.encoder, cells]),
        args,
    )
    train(
        "tokens",
        lambda tiles: tokens(vlm.bridge(vlm.encoder(tiles))).unflatten(-1, (SLOTS, kinds)),
        nn.ModuleList([vlm.encoder, vlm.bridge, tokens]),
        args,
    )
    print(save_folder(vlm, args.out, to_plain(config)))


if __name__ == "__main__":
    main()
