"""Train the small model on all kinds of documents, fonts and questions together, in one stage.

    python tools/train_wide.py --init-from runs/small/model --out runs/small/wide

All parts of the model are trained. The documents have many layouts and sizes, and half of them look as if
photographed. Questions ask for a value, for its box, or for something that is not on the page, and some
pictures are not documents. Two heads are trained with the model and discarded afterwards. One predicts the
box of the next character of a value from the output of the layer before the last one. The other predicts
the character in each cell of 8 x 8 pixels from the features of the encoder.

The learning rate rises for 30 steps, stays constant, and falls to zero over the last third of ``--steps``.
Started again with the same ``--out`` it continues from its last checkpoint, also with another ``--steps``.
"""

import argparse
import random
from collections.abc import Iterator
from typing import Any

import torch
from pretraining import (
    BoxHead,
    Steps,
    arguments,
    box_figures,
    box_values,
    location_rows,
    save,
    states_after,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_copying import PIXELS, Spelled, next_boxes, some, spell

from hdvl.checkpoints import load_folder
from hdvl.data.synthetic import Document, Field, SyntheticDocuments, absent, locate, read
from hdvl.data.synthetic.cells import classes
from hdvl.data.synthetic.questions import wordings
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Message, SharedPrefix, TilePlan
from hdvl.training.muon import MuonAdamW
from hdvl.training.step_loss import batch_loss

OLDER = ("table", "table", "form", "form", "tag", "street", "receipt", "chart", "sign")
KINDS = (*("described",) * 12, *OLDER, "picture")
LOCATES, ABSENT, REWORDED = 0.2, 0.13, 0.45
"""Shares of the questions that locate, that ask for what is not there, and in other words."""
CELL = 8
WARMUP, SETTLE, COOLDOWN = 30, 40, 1 / 3
"""Steps of the warm-up, steps in which the losses of the heads train these alone, share of the cooldown."""


class Wide(Dataset):
    """Packed batches of documents with questions, the boxes of the answers' characters, and cell labels."""

    def __init__(self, vlm: VLM, seed: int, *, pages: float, area: float) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.tokenizer, self.tiler = vlm.llm.tokenizer, vlm.tiler
        self.seed, self.pages, self.area = seed, pages, area

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        rng = random.Random(f"wide/{self.seed}/{index}")
        samples, spelled, cells = [], list[Spelled](), list[Tensor]()
        for document in self.documents(rng):
            asked = self.ask(document, rng)
            sample = self.processor(SharedPrefix(tuple(turns for turns, _ in asked)))
            samples.append(sample)
            spelled += [boxes for _, boxes in asked]
            cells.append(tile_cells(document, self.tiler.plan(*document.image.size)))
        batch = pack(samples)
        where, wanted = next_boxes(self.tokenizer, batch.labels[0], spelled)
        return batch, where, wanted, torch.cat(cells)

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Whole pages, or smaller documents, until their area is reached."""
        whole, left = rng.random() < self.pages, self.area
        while left > 0:
            document = SyntheticDocuments(
                seed=rng.randrange(10**9),
                kinds=KINDS,
                chinese=0.3,
                width=(848, 1120) if whole else (320, 760),
                height=(624, 896) if whole else (224, 460),
                entries=(3, 14),
                font_size=(12, 19),
                fonts=rng.choice(("few", "many", "many")),
                photographed=0.5,
            )[0]
            yield document
            left -= document.image.width * document.image.height

    def ask(self, document: Document, rng: random.Random) -> list[tuple[list[Message], Spelled]]:
        """Questions about a document with their answers, and the boxes of the characters these read."""
        fields: list[Field | None] = [
            field if rng.random() >= ABSENT else None for field in some(document.fields, rng)
        ]
        return [self.turns(document, field, rng) for field in fields or [None, None]]

    def turns(
        self, document: Document, field: Field | None, rng: random.Random
    ) -> tuple[list[Message], Spelled]:
        """A question about ``field``, or about something that is not there, with its answer."""
        locates = rng.random() < LOCATES
        known = wordings("where" if locates else "read", document.language)
        wording = rng.choice(known) if rng.random() < REWORDED else None
        boxes = list[list[int]]()
        if field is None:
            question = absent(document, rng, wording)
        elif locates:
            question = locate(field, document, self.boxes, wording)
        else:
            question = read(field, wording)
            glyphs, size = document.glyphs[slice(*field.span)], document.image.size
            boxes = [box_values(self.boxes.encode(glyph.box, *size)) for glyph in glyphs]
        turns = [
            Message("user", question.text, (document.image,)),
            Message("assistant", question.answer),
        ]
        return turns, spell(question.answer, boxes) if boxes else []


def tile_cells(document: Document, plan: TilePlan) -> Tensor:
    """The class of the character in each cell of every tile, -100 on the thumbnail: tiles cells."""
    side = plan.tile_size // CELL
    labels = torch.zeros(plan.canvas[1] // CELL, plan.canvas[0] // CELL, dtype=torch.long)
    left, top, right, bottom = plan.content  # the page fills it, a little stretched
    across, down = (right - left) / document.image.width, (bottom - top) / document.image.height
    for glyph in document.glyphs:
        x0, y0, x1, y1 = glyph.box
        rows = (round((top + y * down) / CELL) for y in (y0, y1))
        cols = (round((left + x * across) / CELL) for x in (x0, x1))
        (y0, y1), (x0, x1) = ((max(0, low), max(0, high)) for low, high in (rows, cols))
        labels[y0:y1, x0:x1] = classes()[glyph.char]
    tiles = [
        labels[y // CELL : y // CELL + side, x // CELL : x // CELL + side].flatten()
        for x, y in plan.windows
    ]
    if plan.thumbnail_index is not None:
        tiles.insert(plan.thumbnail_index, torch.full((side * side,), -100))
    return torch.stack(tiles)


def cell_loss(head: nn.Module, features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the inked cells and 3 % of the others, and the accuracy on the inked ones."""
    known = cells >= 0
    paper = known & (cells == 0)
    kept = (known & ~paper) | (paper & (torch.rand(cells.shape) < 0.03))
    kept[0, 0] |= not bool(kept.any())  # the mean of no cell is no number
    scores, wanted = head(features[kept].float()), cells[kept].clamp(min=0)
    right = (scores.argmax(-1) == wanted)[wanted > 0].float().mean()
    return nn.functional.cross_entropy(scores, wanted), right


def groups(vlm: VLM, heads: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of all parts.

    The rate falls from the last layer of the LLM to the bridge. The encoder has a quarter of it, and the
    heads, which start from random weights, have six times as much.
    """
    body = vlm.llm.model.model
    depth = len(body.layers)
    rates: list[tuple[nn.Module, float]] = [(body.norm, lr), (heads, 6 * lr)]
    rates += [(layer, lr * decay ** (depth - 1 - n)) for n, layer in enumerate(body.layers)]
    low = lr * decay**depth
    rates += [(part, low) for part in (body.embed_tokens, vlm.bridge, vlm.merger)]
    rates.append((vlm.encoder, 0.25 * lr))
    return [{"params": list(part.parameters()), "lr": rate} for part, rate in rates]


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train every part of the model."""
    heads = nn.ModuleDict(
        {"box": BoxHead(vlm.llm.width), "cell": nn.Linear(vlm.encoder.width, 1 + len(classes()))}
    )
    modules = nn.ModuleDict({"vlm": vlm, "heads": heads})
    optimizer = MuonAdamW(
        groups(vlm, heads, args.lr, args.decay), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=WARMUP, cooldown=COOLDOWN)
    data = Wide(vlm, args.seed, pages=args.pages, area=args.batch * PIXELS)
    order = range(steps.step, args.steps)
    loader = DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=4)
    features = list[Tensor]()
    vlm.encoder.register_forward_hook(lambda module, inputs, output: features.append(output))
    for batch, where, wanted, cells in loader:
        features.clear()
        with torch.autocast("cpu", torch.bfloat16), states_after(vlm, -2) as kept:
            summed, weight = batch_loss(vlm, batch, first_token_weight=1.5)
        settled = steps.step >= SETTLE
        states, (seen,) = kept[0][0, where].float(), features
        loss = summed / weight
        cell, read_cells = cell_loss(heads["cell"], seen if settled else seen.detach(), cells)
        figures = {"loss": loss, "cells": cell, "cells right": read_cells}
        loss = loss + args.cells * cell
        if len(where):  # a batch may ask for nothing that can be read
            next_box, found = heads["box"](
                states if settled else states.detach(), location_rows(vlm).detach(), wanted
            )
            figures |= {"next box": next_box, **box_figures(found, wanted)}
            loss = loss + args.weight * next_box
        steps.take(loss, figures)


def main() -> None:
    parser = arguments(__doc__, steps=5000, batch=0.3, lr=9e-4)
    parser.add_argument("--decay", type=float, default=0.85, help="of the rate, a layer down")
    parser.add_argument("--pages", type=float, default=0.25, help="share of batches of whole pages")
    parser.add_argument("--weight", type=float, default=0.3, help="of the loss of the next box")
    parser.add_argument("--cells", type=float, default=0.2, help="of the loss of the cells")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vlm = load_folder(args.init_from).eval()  # batch norms keep what they know of whole pages
    train(vlm, args)
    print(save(vlm, args.out))


if __name__ == "__main__":
    main()
