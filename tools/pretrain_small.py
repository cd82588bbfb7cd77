"""Pre-train the small model's encoder and bridge on dense reading labels, without a language model.

    python tools/pretrain_small.py --out runs/small/pretrained

Linear heads are trained with the encoder and the bridge and discarded afterwards. From the features of the
encoder they predict the character in every cell of 8 x 8 pixels. From the tokens of the bridge, which
cover 16 x 16 pixels, they predict the characters of the token in reading order, the extent of their ink, and
the words that they belong to.

With ``--init-from`` the training starts from a whole model. Its language model is not trained here, so it
must be adapted to the new features afterwards. Started again with the same ``--out`` the training continues
from its last checkpoint. The result is a model folder for ``hdvl train init_from=...``, and beside it
``OUT.curve.csv`` with the losses.
"""

import argparse
import random
from dataclasses import replace
from typing import Any

import torch
from pretraining import Steps, arguments, matching_loss, save, small_config, start_from
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import hdvl
from hdvl.data.synthetic import Document, SyntheticDocuments, words
from hdvl.data.synthetic.cells import (
    cell_labels,
    classes,
    token_boxes,
    token_labels,
    token_words,
)
from hdvl.data.synthetic.fonts import font_files
from hdvl.data.synthetic.page import Glyph, Page
from hdvl.model import VLM
from hdvl.protocols import Box

TILE, SLOTS, WORDS = 224, 4, 6
PLACES = {place.lower(): place for place in words.PLACES["en"]}


def dense_page(seed: str) -> Document:
    """A page filled with words in one font, which has more characters per tile than a document."""
    rng = random.Random(seed)
    language = "zh" if rng.random() < 0.3 else "en"
    light = tuple(rng.randint(180, 255) for _ in range(3))
    dark = tuple(rng.randint(0, 90) for _ in range(3))
    paper, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
    page = Page(
        width=256,
        height=256,
        rng=rng,
        language=language,
        font_file=rng.choice(font_files(language)),
        font_size=rng.randint(12, 18),
        paper=paper,
        ink=ink,
    )
    y = rng.randint(-6, 12)
    while y < page.height:
        x = rng.randint(-20, 30)
        while x < page.width:
            text = words.value(rng, language)
            if rng.random() < 0.5:
                text = rng.choice(rng.choice(list(words.LISTS.values()))[language])
                text = rng.choice((text, text.upper(), text.title()))
            page.text(x, y, text)
            x += page.measure(text) + rng.randint(6, 40)
        y += page.line_spacing + rng.randint(0, 10)
    return Document(page.image, "words", language, (), tuple(page.lines()), tuple(page.glyphs))


def labelled_tile(
    document: Document, seed: int
) -> tuple[tuple[int, int], Tensor, Tensor, Tensor, Tensor]:
    """A tile from a random position of a document: its left and top, pixels, and labels.

    The labels are those of the cells, and the characters and the boxes of the tokens.
    """
    width, height = document.image.size
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        16 * int(torch.randint((side - TILE) // 16 + 1, (), generator=generator))
        for side in (width, height)
    )
    shown = cut(document, x, y, TILE)
    pixels = torch.frombuffer(bytearray(shown.image.tobytes()), dtype=torch.uint8)
    tile = pixels.view(TILE, TILE, 3).permute(2, 0, 1).contiguous()
    cells, tokens, boxes = (
        labels.flatten(0, 1)
        for labels in (
            cell_labels(shown)[0],
            token_labels(shown, slots=SLOTS),
            token_boxes(shown),
        )
    )
    return (x, y), tile, cells, tokens, boxes


class Labelled(Dataset):
    """Tiles from random positions of word pages and documents, with the labels of cells and tokens."""

    def __init__(self, seed: int, tokenizer: Any) -> None:
        self.seed, self.tokenizer = seed, tokenizer
        self.known: dict[str, list[int]] = {}
        self.documents = SyntheticDocuments(
            seed=seed, width=(224, 640), height=(224, 320), entries=(4, 10), chinese=0.3
        )

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rows = index % 4 == 0
        document = self.documents[index] if rows else dense_page(f"{self.seed}/{index}")
        (x, y), *parts = labelled_tile(document, index)
        said = self.words(document, x // 16, y // 16)
        return *parts, said

    def words(self, document: Document, x: int, y: int) -> Tensor:
        """The ids of the words that each token is part of, as a question spells them, padded with -1."""
        side = TILE // 16
        ids = torch.full((side * side, WORDS), -1)
        for (row, col), found in token_words(document).items():
            if y <= row < y + side and x <= col < x + side:
                listed = [i for word in sorted(found) for i in self.spelled(word)][:WORDS]
                ids[(row - y) * side + col - x, : len(listed)] = torch.tensor(listed).long()
        return ids

    def spelled(self, word: str) -> list[int]:
        if word not in self.known:
            bare = word.strip(".,:;?!()#&-，。：？！（）")
            plain = bare and not any(char.isdigit() for char in bare)
            asked = PLACES.get(bare, bare)  # places keep their capital in questions
            text = asked if any(ord(char) > 0x2E80 for char in asked) else f" {asked}"
            self.known[word] = self.tokenizer(text)["input_ids"] if plain else []
        return self.known[word]


def cut(document: Document, x: int, y: int, side: int) -> Document:
    """A square of a document with the characters that reach into it."""

    def moved(box: Box) -> Box:
        return box[0] - x, box[1] - y, box[2] - x, box[3] - y

    glyphs = list[Glyph]()
    for glyph in document.glyphs:
        left, top, right, bottom = glyph.box
        if left < x + side and x < right and top < y + side and y < bottom:
            glyphs.append(Glyph(glyph.char, moved(glyph.box), moved(glyph.ink), glyph.word))
    image = document.image.crop((x, y, x + side, y + side))
    return replace(document, image=image, fields=(), lines=(), glyphs=tuple(glyphs))


def inked_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in which cells without ink have a weight of 0.1, and the accuracy on those with ink."""
    logits, labels = logits.flatten(0, -2), labels.flatten()
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    inked = labels > 0
    weights = torch.where(inked, 1.0, 0.1)
    return (losses * weights).sum() / weights.sum(), (logits.argmax(-1) == labels)[
        inked
    ].float().mean()


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train encoder and bridge so that linear heads read cells and tokens."""
    kinds = len(classes()) + 1
    cell_head = nn.Linear(vlm.encoder.width, kinds)
    token_head = nn.Linear(vlm.llm.width, SLOTS * kinds)
    box_head = nn.Linear(vlm.llm.width, 4)
    # Tokens are matched to the embeddings of their words by a product of projections, as in attention, so
    # that one attention layer of the language model can find a word of the question on the page.
    query, key = (nn.Linear(vlm.llm.width, 48, bias=False) for _ in range(2))
    embeddings = vlm.llm.model.get_input_embeddings().weight.detach()
    heads = [cell_head, token_head, box_head, query, key]
    modules = nn.ModuleList([vlm.encoder, vlm.bridge, *heads])
    groups = [
        {"params": [*vlm.encoder.parameters(), *vlm.bridge.parameters()]},
        {"params": [p for head in heads for p in head.parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.02)
    steps = Steps(args.out, modules, optimizer, steps=args.steps)
    order = range(steps.step * args.batch, args.steps * args.batch)
    data = DataLoader(
        Labelled(args.seed, vlm.llm.tokenizer), args.batch, sampler=order, num_workers=1
    )
    for tiles, cells, tokens, boxes, said in data:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            with torch.set_grad_enabled(steps.step >= args.heads_first):
                features = vlm.encoder(tiles)
                bridged = vlm.bridge(features)
            characters = cell_head(features)
            slots = token_head(bridged).unflatten(-1, (SLOTS, kinds))
            places = box_head(bridged)
            matches = key(bridged) @ query(embeddings).T
        cell_loss, cell_hits = inked_loss(characters.float(), cells)
        token_loss, token_hits = inked_loss(slots.float(), tokens)
        inked = boxes[..., 0].isfinite()
        box_loss = nn.functional.l1_loss(places.float()[inked], boxes[inked])
        word_loss, word_hits = matching_loss(matches.float(), said)
        losses = {"cells": cell_loss, "tokens": token_loss, "boxes": box_loss, "words": word_loss}
        right = {"cells right": cell_hits, "tokens right": token_hits, "words right": word_hits}
        if steps.step < 2 * args.heads_first:  # then the encoder's rate rises over as many steps
            optimizer.param_groups[0]["lr"] *= max(0.0, steps.step / args.heads_first - 1)
        steps.take(sum(losses.values(), torch.zeros(())), losses | right)


def main() -> None:
    parser = arguments(__doc__, steps=3000, batch=16, lr=3e-3)
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16: 1.6x on AVX512-BF16")
    parser.add_argument("--heads-first", type=int, default=0, help="steps of the heads alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.init_from is not None:
        vlm = start_from(args.init_from)
    else:
        # tools/train_copying.py, pretrain_wide.py and train_wide.py add the other blocks and layers.
        vlm = hdvl.build(small_config(lines=0, layers=4).model)
    train(vlm, args)
    print(save(vlm, args.out, args.init_from))


if __name__ == "__main__":
    main()
