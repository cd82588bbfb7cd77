"""What the trainings of the small model share: restartable steps, places on pages, digits of boxes."""

import argparse
import csv
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

TOKEN, DIGITS = 16, 12
"""Pixels of a side of a visual token; digits of a box."""


class Steps:
    """Optimizer steps that go on from ``OUT.checkpoint.pt`` and leave figures in ``OUT.curve.csv``.

    ``optimizer`` has one learning rate, which rises over a share ``warmup`` of the steps and falls
    again (OneCycleLR).
    """

    def __init__(
        self,
        out: Path,
        modules: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        warmup: float = 0.1,
    ) -> None:
        self.modules, self.optimizer, self.steps = modules, optimizer, steps
        self.path, self.curve = Path(f"{out}.checkpoint.pt"), Path(f"{out}.curve.csv")
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            optimizer.defaults["lr"],
            total_steps=steps + 1,
            pct_start=warmup,
            cycle_momentum=False,
        )
        self.step, spent = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            for name in ("modules", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])
            self.step, spent = state["step"], state["seconds"]
        out.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic() - spent

    def take(self, loss: Tensor, figures: Mapping[str, Tensor]) -> None:
        """One step down ``loss``."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.step % 25 == 0:
            self._log({name: round(value.item(), 4) for name, value in figures.items()})
        if self.step % 100 == 0 or self.step == self.steps:
            self._save()

    def _log(self, figures: Mapping[str, float]) -> None:
        row = {"step": self.step, "seconds": round(time.monotonic() - self.started), **figures}
        fresh = not self.curve.exists()
        with self.curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    def _save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "seconds": time.monotonic() - self.started,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)


def arguments(text: str, *, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options of both."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--initialise", type=Path, help="a model folder to start from")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def matching_loss(logits: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token's words among all embeddings; and the share that match best."""
    there = said[..., 0] >= 0
    scores, said = logits[there].log_softmax(-1), said[there]
    known = said >= 0
    picked = scores.gather(-1, said.clamp(min=0)).masked_fill(~known, 0.0)
    hits = (scores.argmax(-1, keepdim=True) == said).any(-1).float().mean()
    return -(picked.sum(-1) / known.sum(-1)).mean(), hits


def place_on_page(rng: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Where (x, y) on a large page a document may stand, on whole tokens; the page's (width, height)."""
    page = rng.randint(max(896, width), 1120), rng.randint(max(672, height), 896)
    x, y = (
        TOKEN * rng.randint(0, (whole - part) // TOKEN)
        for whole, part in zip(page, (width, height), strict=True)
    )
    return x, y, *page


def box_digits(answer: str) -> list[int]:
    """The twelve digits of the first box of ``answer``; none without a box."""
    _, found, inside = answer.partition("<box>(")
    numbers = inside.partition(")</box>")[0].replace("),(", ",").split(",") if found else []
    return [int(digit) for number in numbers for digit in f"{int(number):03d}"]
