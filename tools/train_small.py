"""``hdvl train`` for the small model with two additions that the trained model does not contain.

    python tools/train_small.py experiment=small init_from=runs/small/fields run_dir=runs/small/run

Documents of little height are treated as parts of a large page: their tokens and boxes get the coordinates
of a position on that page, which follows from their size. So boxes are learned at the scale of whole pages
at a fraction of the cost.

A linear head on the third layer of the LLM predicts the box at every position of an answer with a box.
Without it, boxes (then written in digits) stayed at chance long after the words around them were learned.

The arguments are those of ``hdvl train``. It works in one process, with one row in a batch (``independent``).
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
"""Documents higher than this, in pixels, keep their own coordinates."""
SETTLE, EVERY = 20, 10
"""The first steps, in which only the head is trained, and the steps between two printed lines about it."""


@cache
def place(width: int, height: int) -> tuple[int, int, int, int]:
    """Where (x, y) a document of this size stands on a page, and the page's (width, height)."""
    if height > LOW:
        return 0, 0, width, height
    return place_on_page(random.Random(f"placed/{width}x{height}"), width, height)


@contextmanager
def placed_documents() -> Iterator[None]:
    """Meanwhile boxes and positions of low documents are those on the page around them."""
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
    """A :class:`BoxHead` with an optimizer of its own."""

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
