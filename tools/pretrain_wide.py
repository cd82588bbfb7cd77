"""Train the small model's encoder and bridge to read many fonts and worn pages, without a language model.

    python tools/pretrain_wide.py --init-from runs/small/model --out runs/small/read

The labels are those of ``tools/pretrain_small.py``, without words: the character in each cell of 8 x 8
pixels, the characters of each token of 16 x 16 pixels in reading order, and the extent of their ink. Three
quarters of the pages are drawn in 34 font files, many of them filled with values, invented words and strings
that mean nothing, and half of all pages look as if photographed.

Two blocks along the line are added to the encoder, which change nothing at first. The language model is not
trained here, and is to understand the new features as it understood the old ones. So the heads are trained
first, on the old features, and then stay as they are. On clean pages of the first seven kinds the tokens of
the bridge are kept near those of the old weights. Started again with the same ``--out`` the training
continues from its last checkpoint.
"""

import argparse
import copy
import random
import string
from typing import Any

import torch
from hydra.utils import instantiate
from pretrain_small import SLOTS, inked_loss, labelled_tile
from pretraining import Steps, arguments, start_from
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hdvl.checkpoints import read_config, save_folder
from hdvl.data.synthetic import Document, SyntheticDocuments, words
from hdvl.data.synthetic.cells import classes
from hdvl.data.synthetic.documents import papers
from hdvl.data.synthetic.fonts import font_files
from hdvl.data.synthetic.looks import photographed
from hdvl.data.synthetic.page import Page
from hdvl.data.synthetic.style import PLAIN, Color, some_style
from hdvl.data.synthetic.values import any_value, invented_label, vocabulary
from hdvl.model import VLM

WORN = 0.5
"""The share of pages that look as if photographed."""
STYLED = 0.5
"""The share of lines and documents whose characters are stretched, slanted or bolder."""
LINES = 2
"""The blocks along the line that are added to the encoder."""
KEPT = 2.0
"""The weight of the distance from the old tokens, relative to their variance."""


def dense_page(seed: str) -> Document:
    """A page filled with words, a font in each line, which has more characters per tile than a document."""
    rng = random.Random(seed)
    language = "zh" if rng.random() < 0.25 else "en"
    paper, ink = rng.choice(papers()) if rng.random() < 0.5 else colors(rng)
    low, high = rng.choices(((12, 19), (9, 12), (19, 28)), (8, 1, 1))[0]
    page = Page(
        width=256,
        height=256,
        rng=rng,
        language=language,
        font_file=font_files(language, "many")[0],
        font_size=rng.randint(low, high),
        paper=paper,
        ink=ink,
    )
    y = rng.randint(-6, 12)
    while y < page.height:
        page.font_file = rng.choice(font_files(language, "many"))
        page.style = some_style(rng) if rng.random() < STYLED else PLAIN
        x = rng.randint(-20, 30)
        while x < page.width:
            text = some_text(rng, language)
            page.text(x, y, text)
            x += page.measure(text) + rng.randint(6, 40)
        y += page.line_spacing + rng.randint(0, 10)
    document = Document(page.image, "words", language, (), tuple(page.lines()), tuple(page.glyphs))
    return photographed(document, rng) if rng.random() < WORN else document


def colors(rng: random.Random) -> tuple[Color, Color]:
    """Random paper and ink, one light and one dark."""
    light = rng.randint(170, 255), rng.randint(170, 255), rng.randint(170, 255)
    dark = rng.randint(0, 100), rng.randint(0, 100), rng.randint(0, 100)
    return (light, dark) if rng.random() < 0.7 else (dark, light)


def some_text(rng: random.Random, language: str) -> str:
    """Words of the documents, values, invented words, and strings that mean nothing."""
    kind = rng.random()
    if language == "zh" and kind < 0.7:
        lists = [*(part["zh"] for part in words.LISTS.values())]
        return rng.choice((words.value(rng, "zh"), rng.choice(rng.choice(lists))))
    if kind < 0.35:
        return any_value(rng)
    if kind < 0.45:
        return "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(2, 8)))
    if kind < 0.6:
        text = invented_label(rng)
    elif kind < 0.8:
        text = rng.choice(rng.choice(list(words.LISTS.values()))["en"])
    else:
        groups = list(vocabulary()["groups"].values())
        text = rng.choice([label for part in rng.choice(groups).values() for label in part])
    text += rng.choices(("", ":", ".", ",", " -"), (6, 2, 1, 1, 1))[0]
    return rng.choice((text, text, text.upper(), text.title(), text.lower()))


class Wide(Dataset):
    """Tiles from random positions of word pages and documents, with the labels of cells and tokens."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        sizes: dict[str, Any] = {
            "width": (224, 480),
            "height": (224, 320),
            "entries": (4, 10),
            "photographed": WORN,
            "styled": STYLED,
        }
        self.older = SyntheticDocuments(seed=seed, chinese=0.3, **sizes)
        plain = {"photographed": 0.0, "styled": 0.0}
        self.clean = SyntheticDocuments(seed=seed, chinese=0.3, **sizes | plain)
        self.described = SyntheticDocuments(
            seed=seed, kinds="described", fonts="many", font_size=(12, 19), invented=0.3, **sizes
        )

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        clean = index % 8 == 0
        if clean:
            document = self.clean[index]
        elif index % 4 == 0:
            document = self.older[index]
        else:
            dense = index % 4 < 3
            document = dense_page(f"{self.seed}/{index}") if dense else self.described[index]
        _, *parts = labelled_tile(document, index)
        return *parts, torch.tensor(clean)


def add_lines(vlm: VLM, config: dict[str, Any]) -> None:
    """Add blocks along the line to the encoder and its ``config`` that change nothing at first."""
    encoder = config["model"]["encoder"]
    if encoder["lines"]:
        return
    encoder["lines"] = LINES
    wider = instantiate(encoder)
    wider.load_state_dict(wider.state_dict() | vlm.encoder.state_dict())
    for block in wider.layers[-LINES:]:
        nn.init.zeros_(block.layers[-1].weight)
    vlm.encoder = wider.eval()


class Heads(nn.Module):
    """Linear heads for the labels."""

    def __init__(self, features: int, tokens: int) -> None:
        super().__init__()
        kinds = 1 + len(classes())
        self.cells = nn.Linear(features, kinds)
        self.tokens = nn.Linear(tokens, SLOTS * kinds)
        self.boxes = nn.Linear(tokens, 4)

    def forward(
        self, features: Tensor, bridged: Tensor, cells: Tensor, tokens: Tensor, boxes: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of an encoder's features and a bridge's tokens, and the shares that are right."""
        cell_loss, cell_hits = inked_loss(self.cells(features).float(), cells)
        slots = self.tokens(bridged).float().unflatten(-1, (SLOTS, -1))
        token_loss, token_hits = inked_loss(slots, tokens)
        inked = boxes[..., 0].isfinite()
        box_loss = nn.functional.l1_loss(self.boxes(bridged).float()[inked], boxes[inked])
        losses = {"cells": cell_loss, "tokens": token_loss, "boxes": box_loss}
        return losses, {"cells right": cell_hits, "tokens right": token_hits}


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train encoder, bridge and heads; during the first steps the heads alone."""
    heads = Heads(vlm.encoder.width, vlm.llm.width)
    older = copy.deepcopy(nn.ModuleList([vlm.encoder, vlm.bridge])).requires_grad_(False)
    modules = nn.ModuleList([vlm.encoder, vlm.bridge, heads, older])
    groups = [
        {"params": [*vlm.encoder.parameters(), *vlm.bridge.parameters()]},
        {"params": list(heads.parameters()), "lr": 2 * args.lr},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=60, cooldown=0.4)
    order = range(steps.step * args.batch, args.steps * args.batch)
    data = DataLoader(Wide(args.seed), args.batch, sampler=order, num_workers=2, prefetch_factor=4)
    for tiles, *labels, clean in data:
        moves = steps.step >= args.heads_first
        heads.tokens.requires_grad_(not moves)
        heads.boxes.requires_grad_(not moves)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(moves):
                features = vlm.encoder(tiles)
                bridged = vlm.bridge(features)
            losses, right = heads(features, bridged, *labels)
            if moves and bool(clean.any()):
                with torch.no_grad():
                    before = older[1](older[0](tiles[clean])).float()
                away = (bridged[clean].float() - before).square().mean()
                losses["kept"] = KEPT * away / before.var()
        steps.take(sum(losses.values(), torch.zeros(())), losses | right)


def main() -> None:
    parser = arguments(__doc__, steps=4500, batch=16, lr=1.5e-3)
    parser.add_argument("--heads-first", type=int, default=400, help="steps of the heads alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = read_config(args.init_from)
    vlm = start_from(args.init_from)
    add_lines(vlm, config)
    train(vlm, args)
    print(save_folder(vlm, args.out, config))


if __name__ == "__main__":
    main()
