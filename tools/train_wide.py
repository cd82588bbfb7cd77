"""Train the small model on all kinds of documents, fonts and questions together, in one stage.

    python tools/train_wide.py --init-from runs/small/model --out runs/small/wide

All parts of the model are trained. The documents have many layouts and sizes, and half of them look as if
photographed. Labels are invented words in more than half of the layouts of ``layouts.yaml``, so that they
cannot be learned by heart: the model has to compare the letters of the question with those on the page.
Questions ask for a value, for its box, or for something that is not on the page, and some pictures are not
documents.

Four heads are trained with the model and discarded afterwards. Two of them point to what an answer has to
look at (``tools/pointers.py``): to the label that the question names, and to the next character of the value.
The third predicts the box of that character, or of the value that is to be located, the fourth the character
in each cell of 8 x 8 pixels from the features of the encoder.

The learning rate rises for 30 steps, stays constant, and falls to zero over the last third of ``--steps``.
Started again with the same ``--out`` it continues from its last checkpoint, also with another ``--steps``.
"""

import argparse
import random
from collections.abc import Iterator
from typing import Any

import torch
from pointers import PointerHead, Pointers, TokenGrid, Wanted, pointers, wanted_of
from pretraining import (
    LOCATIONS,
    BoxHead,
    Steps,
    arguments,
    box_figures,
    location_rows,
    save,
    states_after,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_copying import PIXELS, some
from train_small import answers

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
LOCATES, ABSENT, REWORDED, INVENTED = 0.5, 0.2, 0.45, 0.6
"""Shares of the fields that are also located, beside which something absent is asked for, of the questions in
other words, and of invented labels."""
NAMED, NEXT, BOXED = 2, 3, 4
"""The layers of the LLM after whose states the heads find what is named, the next character, and its box."""
CELL = 8
WARMUP, SETTLE, COOLDOWN = 30, 40, 1 / 3
"""Steps of the warm-up, steps in which the losses of the heads train these alone, share of the cooldown."""


class Wide(Dataset):
    """Packed batches of documents with questions, what their answers look at, and cell labels."""

    def __init__(self, vlm: VLM, seed: int, *, pages: float, area: float) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.tokenizer, self.tiler, self.merger = vlm.llm.tokenizer, vlm.tiler, vlm.merger
        self.image_token_id = vlm.image_token_id
        self.seed, self.pages, self.area = seed, pages, area

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Batch, Pointers, Pointers, Tensor]:
        rng = random.Random(f"wide/{self.seed}/{index}")
        samples, asked, cells = [], list[tuple[TokenGrid, Wanted]](), list[Tensor]()
        for document in self.documents(rng):
            questions = self.ask(document, rng)
            plan = self.tiler.plan(*document.image.size)
            grid = TokenGrid(plan, self.merger.places(plan))
            samples.append(self.processor(SharedPrefix(tuple(turns for turns, _ in questions))))
            asked += [(grid, wanted) for _, wanted in questions]
            cells.append(tile_cells(document, plan))
        batch = pack(samples)
        return batch, *self.pointers(batch, asked), torch.cat(cells)

    def pointers(
        self, batch: Batch, asked: list[tuple[TokenGrid, Wanted]]
    ) -> tuple[Pointers, Pointers]:
        """What the answers of a batch look at."""
        slots = (batch.input_ids[0] == self.image_token_id).nonzero().flatten().tolist()
        first, spans = 0, dict[int, tuple[int, int]]()
        for grid, _ in asked:
            if id(grid) not in spans:
                spans[id(grid)] = slots[first], slots[first] + grid.count
                first += grid.count
        if first != len(slots):
            raise ValueError(f"the batch has {len(slots)} visual tokens, its images {first}")
        located = self.tokenizer.convert_tokens_to_ids("<loc_0>")
        runs = answers(batch.labels[0])
        items = [
            (*spans[id(grid)], grid, run, wanted)
            for (grid, wanted), run in zip(asked, runs, strict=True)
        ]
        return pointers(
            items,
            batch.labels[0],
            self.tokenizer.decode,
            lambda token: located <= token < located + LOCATIONS,
        )

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Whole pages, or smaller documents, until their area is reached."""
        whole, left = rng.random() < self.pages, self.area
        while left > 0:
            document = SyntheticDocuments(
                seed=rng.randrange(10**9),
                kinds=KINDS,
                chinese=0.3,
                width=(848, 1120) if whole else (320, 640),
                height=(624, 896) if whole else (224, 420),
                entries=(3, 14),
                font_size=(12, 19),
                fonts=rng.choice(("few", "many", "many")),
                photographed=0.5,
                invented=INVENTED,
            )[0]
            yield document
            left -= document.image.width * document.image.height

    def ask(self, document: Document, rng: random.Random) -> list[tuple[list[Message], Wanted]]:
        """Questions about a document with their answers, and what these look at."""
        asked = list[tuple[Field | None, bool]]()
        for field in some(document.fields, rng):
            asked.append((field, False))
            asked += [(field, True)] * (rng.random() < LOCATES)
            asked += [(None, rng.random() < LOCATES)] * (rng.random() < ABSENT)
        return [self.turns(document, *one, rng) for one in asked or [(None, False), (None, True)]]

    def turns(
        self, document: Document, field: Field | None, locates: bool, rng: random.Random
    ) -> tuple[list[Message], Wanted]:
        """A question about ``field``, or about something that is not there, with its answer."""
        known = wordings("where" if locates else "read", document.language)
        wording = rng.choice(known) if rng.random() < REWORDED else None
        wanted = Wanted()
        if field is None:
            invented = document.language == "en" and rng.random() < INVENTED
            question = absent(document, rng, wording, invented=invented)
        else:
            if locates:
                question = locate(field, document, self.boxes, wording)
            else:
                question = read(field, wording)
            wanted = wanted_of(document, field, question.answer, locates=locates)
        turns = [
            Message("user", question.text, (document.image,)),
            Message("assistant", question.answer),
        ]
        return turns, wanted


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
        {
            "named": PointerHead(vlm.llm.width),
            "next": PointerHead(vlm.llm.width),
            "box": BoxHead(vlm.llm.width),
            "cell": nn.Linear(vlm.encoder.width, 1 + len(classes())),
        }
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
    for batch, named, following, cells in loader:
        features.clear()
        with (
            torch.autocast("cpu", torch.bfloat16),
            states_after(vlm, NAMED) as early,
            states_after(vlm, NEXT) as late,
            states_after(vlm, BOXED) as boxed,
        ):
            summed, weight = batch_loss(vlm, batch, first_token_weight=1.5)
        settled, (seen,) = steps.step >= SETTLE, features
        loss = summed / weight
        cell, read_cells = cell_loss(heads["cell"], seen if settled else seen.detach(), cells)
        figures = {"loss": loss, "cells": cell, "cells right": read_cells}
        loss = loss + args.cells * cell
        for name, kept, wanted in (("named", early, named), ("next", late, following)):
            if len(wanted.queries):  # a batch may ask for nothing that is on its pages
                states = kept[0][0].float()
                missed, hits = heads[name](states if settled else states.detach(), wanted)
                figures |= {name: missed, f"{name} right": hits}
                loss = loss + args.weight * missed
        if len(following.queries):
            states = boxed[0][0, following.queries].float()
            around, found = heads["box"](
                states if settled else states.detach(),
                location_rows(vlm).detach(),
                following.boxes,
            )
            figures |= {"box": around, **box_figures(found, following.boxes)}
            loss = loss + args.boxes * around
        steps.take(loss, figures)


def main() -> None:
    parser = arguments(__doc__, steps=5000, batch=0.3, lr=9e-4)
    parser.add_argument("--decay", type=float, default=0.85, help="of the rate, a layer down")
    parser.add_argument("--pages", type=float, default=0.25, help="share of batches of whole pages")
    parser.add_argument("--weight", type=float, default=0.3, help="of the losses of the pointers")
    parser.add_argument("--boxes", type=float, default=0.2, help="of the loss of boxes")
    parser.add_argument("--cells", type=float, default=0.2, help="of the loss of the cells")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vlm = load_folder(args.init_from).eval()  # batch norms keep what they know of whole pages
    train(vlm, args)
    print(save(vlm, args.out))


if __name__ == "__main__":
    main()
