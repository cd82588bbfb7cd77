"""``hdvl train`` for the small model: two helps that are gone after training.

    python tools/train_small.py experiment=small init_from=runs/small/fields run_dir=runs/small/run

Low documents stand at places of large pages that follow from their size: their tokens get the page's
coordinates, and boxes are written in them. Boxes are then learned at the scale at which they are asked
for, at a fraction of the cost of whole pages.

A linear head reads from the LLM's third layer, wherever an answer with a box is written, where that box
is. Without it boxes, then written in digits, stayed at chance where the words around them had long been
learned.

Takes the words of ``hdvl train``; one process, one row a batch (``independent``).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from pretraining import BoxHead, box_figures, box_values, location_rows, place_on_page, states_after
from torch import Tensor

from hdvl.mergers.overlap_blend import OverlapBlend
from hdvl.mergers.positions import SourcePositions
from hdvl.model import VLM
from hdvl.templates import Norm1000
from hdvl.train import main

LAYER = 2
LOW = 620
"""Higher documents are pages themselves."""
SETTLE, EVERY = 20, 10
"""Steps in which the fresh head alone learns; steps between two lines about it."""


@cache
def place(width: int, height: int) -> tuple[int, int, int, int]:
    """Where (x, y) a document of this size stands on a page, and the page's (width, height)."""
    if height > LOW:
        return 0, 0, width, height
    return place_on_page(random.Random(f"placed/{width}x{height}"), width, height)


@contextmanager
def placed_documents() -> Iterator[None]:
    """Boxes and positions are those on the page."""
    encode, locate, arrange = Norm1000.encode, SourcePositions.forward, OverlapBlend.arrange
    size = [(0, 0)]

    def placed_encode(self: Any, box: Any, width: int, height: int, **options: Any) -> str:
        x, y, *page = place(width, height)
        return encode(self, (box[0] + x, box[1] + y, box[2] + x, box[3] + y), *page, **options)

    def placed_arrange(self: Any, maps: Any, plan: Any) -> Tensor:
        size[0] = plan.width, plan.height
        return arrange(self, maps, plan)

    def placed_positions(self: Any, tokens: Tensor, xs: Tensor, ys: Tensor, **options: Any) -> Any:
        (width, height), (x, y, *page) = size[0], place(*size[0])
        xs, ys = (xs * width + x) / page[0], (ys * height + y) / page[1]
        return locate(self, tokens, xs, ys, **options)

    with (
        patch.object(Norm1000, "encode", placed_encode),
        patch.object(OverlapBlend, "arrange", placed_arrange),
        patch.object(SourcePositions, "forward", placed_positions),
    ):
        yield


class LearningHead:
    """A :class:`BoxHead` that learns by itself whenever it is asked again."""

    def __init__(self, width: int) -> None:
        self.head = BoxHead(width)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=2e-3, betas=(0.9, 0.98))
        self.steps, self.figures = 0, dict[str, float]()

    def step(self) -> None:
        """Learn from the last backward pass."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.steps % EVERY == 0:
            print("  ".join(f"{k} {v:.2f}" for k, v in self.figures.items()), flush=True)

    def loss(self, vlm: VLM, hidden: Tensor, labels: Tensor) -> Tensor:
        """Mean over the places of answers with boxes."""
        places, boxes = list[int](), list[list[int]]()
        for answer in answers(labels):
            box = box_values(vlm.llm.tokenizer.decode(labels[answer]))
            if box:
                places += [place - 1 for place in answer]
                boxes += [box] * len(answer)
        if not places:
            return hidden.new_zeros(())
        states = hidden[places].detach() if self.steps < SETTLE else hidden[places]
        wanted = torch.tensor(boxes)
        loss, found = self.head(states, location_rows(vlm).detach(), wanted)
        for name, value in box_figures(found, wanted).items():
            past = self.figures.get(name, value.item())
            self.figures[name] = past + 0.1 * (value.item() - past)
        return loss


def answers(labels: Tensor) -> list[list[int]]:
    """The places of each answer's tokens."""
    found: list[list[int]] = [[]]
    for place, label in enumerate(labels.tolist()):
        if label != -100:
            found[-1].append(place)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


@contextmanager
def supervised_boxes() -> Iterator[None]:
    """The training loss holds that of a :class:`LearningHead`."""
    forward, heads = VLM.forward, list[LearningHead]()

    def supervised(self: VLM, *inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(self, *inputs, **options)
        if heads:
            heads[0].step()
        else:
            heads.append(LearningHead(self.llm.width))
        with states_after(self, LAYER) as kept:
            output = forward(self, *inputs, **options)
        loss = heads[0].loss(self, kept[0][0], inputs[4][0])
        return replace(output, loss=output.loss + options["weights"].sum() * loss)

    with patch.object(VLM, "forward", supervised):
        yield


if __name__ == "__main__":
    with placed_documents(), supervised_boxes():
        main()
