"""Shared by the tools that train the small model: restartable steps, positions on pages, heads for boxes."""

import argparse
import copy
import csv
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import box_iou

import hdvl
from hdvl.checkpoints import load_folder, read_config, save_folder
from hdvl.config import to_plain
from hdvl.files import atomic_write
from hdvl.mergers.positions import waves
from hdvl.model import VLM

TOKEN, LOCATIONS = 16, 1000
"""The side of a visual token in pixels, and the number of location tokens in the vocabulary."""


class Steps:
    """Optimizer steps that continue from ``OUT.checkpoint.pt`` and write figures to ``OUT.curve.csv``.

    The optimizer's learning rates rise over a share ``warmup`` of the steps and fall again (OneCycleLR). With
    a ``cooldown`` they rise over ``warmup`` steps, stay, and fall linearly over that share of all steps.
    Processes of one process group take their steps together, down the mean of their losses; the first one
    writes.
    """

    def __init__(
        self,
        out: Path,
        modules: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        warmup: float = 0.1,
        cooldown: float | None = None,
    ) -> None:
        self.modules, self.optimizer, self.steps = modules, optimizer, steps
        self.path, self.curve = Path(f"{out}.checkpoint.pt"), Path(f"{out}.curve.csv")
        self.schedule: torch.optim.lr_scheduler.LRScheduler
        if cooldown is None:
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=steps + 1,
                pct_start=warmup,
                cycle_momentum=False,
            )
        else:
            last = cooldown * steps
            self.schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda n: min(1.0, (n + 1) / warmup, max(0.0, (steps - n) / last))
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
        if dist.is_initialized():
            average_gradients(self.modules)
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if dist.is_initialized() and dist.get_rank():
            return
        if self.step % 25 == 0:
            self._log({name: round(value.item(), 4) for name, value in figures.items()})
        if self.step % 50 == 0 or self.step == self.steps:
            self._save()

    def _log(self, figures: Mapping[str, float]) -> None:
        row = {"step": self.step, "seconds": round(time.monotonic() - self.started), **figures}
        names = list[str]()
        if self.curve.exists():  # a step may lack figures that the first one had
            with self.curve.open(newline="") as file:
                names = next(csv.reader(file))
        with self.curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, names or row, extrasaction="ignore")
            if not names:
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
        with atomic_write(self.path) as part:
            torch.save(state, part)


def start_from(folder: Path) -> VLM:
    """The model of a folder, in fp32 also where its weights are stored in bf16."""
    return load_folder(folder).float().eval()  # batch norms keep what they know of whole pages


def average_gradients(modules: nn.Module) -> None:
    """Give each parameter the mean of its gradients in all processes."""
    learning = [part for part in modules.parameters() if part.requires_grad]
    # A batch without boxes, for example, gives no gradients to their head.
    found = [torch.zeros_like(part) if part.grad is None else part.grad for part in learning]
    flat = torch.cat([grad.flatten() for grad in found])
    dist.all_reduce(flat)
    sizes = [part.numel() for part in learning]
    for part, mean in zip(learning, flat.div_(dist.get_world_size()).split(sizes), strict=True):
        part.grad = mean.view_as(part)


def arguments(text: str, *, steps: int, batch: float, lr: float) -> argparse.ArgumentParser:
    """The options that all these tools have."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init-from", type=Path, help="a model folder to start from")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=type(batch), default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def matching_loss(logits: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token's words among all embeddings, and the share matched to one of them."""
    there = said[..., 0] >= 0
    scores, said = logits[there].log_softmax(-1), said[there]
    known = said >= 0
    picked = scores.gather(-1, said.clamp(min=0)).masked_fill(~known, 0.0)
    hits = (scores.argmax(-1, keepdim=True) == said).any(-1).float().mean()
    return -(picked.sum(-1) / known.sum(-1)).mean(), hits


def place_on_page(rng: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """A random position (x, y) of a document on a large page, on whole tokens, and the page's size."""
    page = rng.randint(max(896, width), 1120), rng.randint(max(672, height), 896)
    x, y = (
        TOKEN * rng.randint(0, (whole - part) // TOKEN)
        for whole, part in zip(page, (width, height), strict=True)
    )
    return x, y, *page


def box_values(answer: str) -> list[int]:
    """The four locations of the first box of ``answer``; none without a box."""
    return [int(value) for value in re.findall(r"<loc_(\d+)>", answer)[:4]]


class BoxHead(nn.Module):
    """Predicts the four locations of a box from hidden states, by the embeddings of the location tokens."""

    SPREAD = 1.5
    """The standard deviation, in locations, of the soft target around the right location."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, 4 * width))

    def forward(self, hidden: Tensor, table: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the locations read: n width, locations width, n 4 -> (), n 4."""
        scores = self.layers(hidden).unflatten(-1, (4, -1)) @ table.T
        away = torch.arange(len(table)) - wanted[..., None]
        target = (-0.5 * (away / self.SPREAD) ** 2).softmax(-1)
        return -(target * scores.log_softmax(-1)).sum(-1).mean(), scores.argmax(-1)


def box_figures(found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """The share of boxes with an IoU of at least 0.5, and the median error of each edge."""
    iou = box_iou(found.float()[:, None], wanted.float()[:, None]).flatten()  # each with its own
    errors = (found - wanted).abs().float().median(0).values
    names = zip(("x1", "y1", "x2", "y2"), errors, strict=True)
    return {"boxes right": (iou >= 0.5).float().mean()} | {f"off {k}": v for k, v in names}


def location_rows(vlm: VLM) -> Tensor:
    """The embeddings of ``<loc_0>`` to ``<loc_999>``: locations width."""
    return vlm.llm.model.get_input_embeddings().weight[_locations(vlm)]


def _locations(vlm: VLM) -> slice:
    first = vlm.llm.tokenizer.convert_tokens_to_ids("<loc_0>")
    return slice(first, first + LOCATIONS)


@torch.no_grad()
def place_locations(vlm: VLM) -> None:
    """Initialise the embeddings of location tokens from the positions that are added to visual tokens.

    The model can then write a location by copying the position of a token.
    """
    seen = waves(torch.arange(LOCATIONS) / LOCATIONS)
    positions = vlm.merger.positions
    rows = sum(
        seen @ nn.functional.normalize(part.weight, dim=0).T for part in (positions.x, positions.y)
    )
    norms = vlm.llm.model.get_input_embeddings().weight.norm(dim=1)
    norms[_locations(vlm)] = torch.nan
    location_rows(vlm).copy_(rows * norms.nanmedian() / rows.norm(dim=1).mean())


@contextmanager
def states_after(vlm: VLM, layer: int) -> Iterator[list[Tensor]]:
    """The hidden states (b s width) after a layer of the LLM, of every call made inside."""
    kept = list[Tensor]()
    hook = vlm.llm.model.model.layers[layer].register_forward_hook(
        lambda *call: kept.append(call[-1] if isinstance(call[-1], Tensor) else call[-1][0])
    )
    try:
        yield kept
    finally:
        hook.remove()


def identity_copy(vlm: VLM, number: int) -> nn.Module:
    """A copy of layer ``number`` of the LLM that changes nothing at first: what it adds is zero."""
    model = vlm.llm.model
    added = copy.deepcopy(model.model.layers[number])
    added.self_attn.config = model.config  # whose attention is chosen for all layers at once
    nn.init.zeros_(added.self_attn.o_proj.weight)
    nn.init.zeros_(added.mlp.down_proj.weight)
    return added


def use_layers(vlm: VLM, layers: Sequence[nn.Module]) -> None:
    """Let the LLM have these layers, all of which are of one type."""
    model = vlm.llm.model
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    model.model.layers = nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:1] * len(layers)


def small_config(*, lines: int, layers: int) -> Any:
    """The small model, with so many blocks along the line in the encoder and layers in the LLM."""
    words = ("model=small", f"encoder.lines={lines}", f"llm.config.num_hidden_layers={layers}")
    return hdvl.compose(*words)


def save(vlm: VLM, out: Path, init_from: Path | None) -> Path:
    """A folder of the small model, with the encoder of ``init_from`` and as many layers as ``vlm`` has."""
    lines = 0 if init_from is None else read_config(init_from)["model"]["encoder"]["lines"]
    config = small_config(lines=lines, layers=len(vlm.llm.model.model.layers))
    return save_folder(vlm, out, to_plain(config))
