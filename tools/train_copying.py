"""Give the small model's LLM layers for copying, and train it to follow what it copies.

    python tools/train_copying.py --initialise runs/small/model --out runs/small/copying --grow 2

A value is written character by character, and each is found by where the one before it stood: with four
layers that one was known too late to look further, so that repeated digits were skipped and neighbours
taken. The layers added on top begin as the identity (their output projections are zero, the rest is
that of the layers below them; Kim et al., 2023, "SOLAR 10.7B", arXiv:2312.15166, repeat whole layers);
while they learn, the rest stands still (``--below 0`` trains all). After the one before the last, a head
that is thrown away reads the box of the character that comes next.

Low documents and pages are mixed. Restartable like tools/pretrain_small.py.
"""

import argparse
import copy
import random
from typing import Any

import torch
from pretraining import BoxHead, Steps, arguments, box_figures, box_values, location_rows, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_small import LOW, answers, place, placed_documents

from hdvl.checkpoints import load_folder
from hdvl.data.synthetic import Document, Field, SyntheticDocuments, locate, read
from hdvl.loss import targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Independent, Message
from hdvl.training.muon import MuonAdamW

KINDS = (*("table", "form", "tag", "street") * 2, "table", "receipt", "chart", "sign")
"""Harder ones more often."""
READS = 0.85
"""Share of questions that read; the others locate."""
PIXELS = 1 << 20
"""Of the pictures of one batch, for ``--batch 1``."""


class Answered(Dataset):
    """Packed batches of documents with questions, and where each character of the answers stands."""

    def __init__(self, vlm: VLM, seed: int, *, pages: float, area: float) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.tokenizer = vlm.llm.tokenizer
        self.seed, self.pages, self.area = seed, pages, area

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        rng = random.Random(f"copying/{self.seed}/{index}")
        documents, left = list[Document](), self.area
        whole = rng.random() < self.pages
        while left > 0:
            width, height = (848, 1120), (624, 896)
            if not whole:
                width, height = (
                    (224, rng.choice((416, 720, 1120))),
                    (224, rng.choice((352, LOW - 12))),
                )
            documents.append(
                SyntheticDocuments(
                    seed=rng.randrange(10**9),
                    kinds=KINDS,
                    chinese=0.3,
                    width=width,
                    height=height,
                    entries=(3, 14),
                )[0]
            )
            left -= documents[-1].image.width * documents[-1].image.height
        asked = [self.ask(document, rng) for document in documents]
        batch = pack([self.processor(sample) for sample, _ in asked])
        boxes = [box for _, spelled in asked for box in spelled]
        return batch, *self.places(batch, boxes)

    def ask(self, document: Document, rng: random.Random) -> tuple[Independent, list[list[Any]]]:
        """Questions that do not see each other; for each, the boxes of its answer's characters."""
        branches, spelled = [], []
        for field in rng.sample(document.fields, min(18, len(document.fields))):
            found = characters(document, field)
            reads = len(found) == len(field.value.replace(" ", "")) and rng.random() < READS
            question = read(field) if reads else locate(field, document, self.boxes)
            said = Message("assistant", question.answer)
            branches.append([Message("user", question.text, (document.image,)), said])
            spelled.append([self.moved(document, box) for box in found] if reads else [])
        return Independent(tuple(branches)), [
            list(spell(branch[1].text, boxes))
            for branch, boxes in zip(branches, spelled, strict=True)
        ]

    def moved(self, document: Document, box: Any) -> list[int]:
        """The four locations of ``box`` on the page where the document stands."""
        x, y, *page = place(*document.image.size)
        moved = box[0] + x, box[1] + y, box[2] + x, box[3] + y
        return box_values(self.boxes.encode(moved, *page))

    def places(self, batch: Batch, boxes: list[list[Any]]) -> tuple[Tensor, Tensor]:
        """Where a character comes next, and its box: n, n 4."""
        where, wanted = list[int](), list[list[int]]()
        runs = answers(batch.labels[0])
        assert len(runs) == len(boxes)
        for run, spelled in zip(runs, boxes, strict=True):
            ids = batch.labels[0, run]
            for step, position in enumerate(run):
                begun = len(self.tokenizer.decode(ids[:step])) if step else 0
                if begun < len(spelled) and spelled[begun] is not None:
                    where.append(position - 1)
                    wanted.append(spelled[begun])
        return torch.tensor(where, dtype=torch.long), torch.tensor(wanted).view(-1, 4)


def spell(text: str, boxes: list[list[int]]) -> Any:
    """A box for each character of ``text``; ``None`` for spaces, nothing without boxes."""
    rest = iter(boxes)
    return [None if char == " " else next(rest) for char in text] if boxes else []


def characters(document: Document, field: Field) -> list[Any]:
    """The boxes of the characters of a field's value, from left to right, without its spaces."""
    left, top, right, bottom = field.box
    found = []
    for glyph in document.glyphs:
        across, down = (glyph.ink[0] + glyph.ink[2]) / 2, (glyph.box[1] + glyph.box[3]) / 2
        if left - 1 <= across <= right + 1 and top - 2 <= down <= bottom + 2:
            found.append(glyph)
    value = field.value.replace(" ", "")
    return [glyph.box for glyph in found] if "".join(g.char for g in found) == value else []


def grow(vlm: VLM, count: int) -> None:
    """Add ``count`` layers on top that change nothing yet."""
    model = vlm.llm.model
    layers, config = model.model.layers, model.config
    depth = len(layers)
    for number, layer in enumerate(layers[depth - count :], start=depth):
        added = copy.deepcopy(layer)
        added.self_attn.layer_idx = number
        nn.init.zeros_(added.self_attn.o_proj.weight)
        nn.init.zeros_(added.mlp.down_proj.weight)
        layers.append(added)
    config.num_hidden_layers = depth + count
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *config.layer_types[-count:]]


def trained_groups(vlm: VLM, below: int, lr: float, decay: float) -> list[dict[str, Any]]:
    """The layers from ``below`` on; with all of them bridge, merger and embeddings too."""
    body = vlm.llm.model.model
    vlm.requires_grad_(False)
    depth = len(body.layers)
    modules = [(body.norm, lr)]
    modules += [(body.layers[n], lr * decay ** (depth - 1 - n)) for n in range(below, depth)]
    if below == 0:
        modules.append((body.embed_tokens, lr * decay**depth))
        modules += [(part, lr * decay**depth) for part in (vlm.bridge, vlm.merger)]
    for module, _ in modules:
        module.requires_grad_(True)
    return [{"params": list(module.parameters()), "lr": rate} for module, rate in modules]


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train the layers from ``args.below`` on."""
    body = vlm.llm.model.model
    head = BoxHead(vlm.llm.width)
    if args.head:
        state = torch.load(args.head, weights_only=True)["modules"]
        head.load_state_dict(
            {name[2:]: value for name, value in state.items() if name.startswith("3.")}
        )
    groups = trained_groups(vlm, args.below, args.lr, args.decay)
    groups.append({"params": list(head.parameters()), "lr": args.lr})
    optimizer = MuonAdamW(groups, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    modules = nn.ModuleList([vlm.bridge, vlm.merger, body, head])
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=0.05)
    data = Answered(vlm, args.seed, pages=args.pages, area=args.batch * PIXELS)
    kept = list[Tensor]()
    body.layers[-2].register_forward_hook(
        lambda *call: kept.append(call[-1] if isinstance(call[-1], Tensor) else call[-1][0])
    )
    order = range(steps.step, args.steps)
    loader = DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=4)
    for batch, where, wanted in loader:
        weights = token_weights(
            targets(batch.labels, batch.segments), batch.segments, "token", first_token_weight=1.5
        )
        output = vlm(
            batch.input_ids,
            batch.pixels,
            batch.plans,
            None,
            batch.labels,
            segments=batch.segments,
            weights=weights / weights.sum(),
            every_logit=False,
        )
        next_box, found = head(kept.pop()[0, where], location_rows(vlm).detach(), wanted)
        figures = {"loss": output.loss, "next box": next_box, **box_figures(found, wanted)}
        steps.take(output.loss + args.weight * next_box, figures)


def main() -> None:
    parser = arguments(__doc__, steps=600, batch=1, lr=1.5e-3)
    parser.add_argument("--grow", type=int, default=0, help="layers to add")
    parser.add_argument("--below", type=int, default=4, help="layers that stay as they are")
    parser.add_argument("--decay", type=float, default=1.0, help="of the rate, a layer down")
    parser.add_argument("--pages", type=float, default=0.3, help="share of batches of whole pages")
    parser.add_argument("--weight", type=float, default=0.3, help="of the head's loss")
    parser.add_argument("--head", help="a checkpoint of this tool to take the head from")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vlm = load_folder(args.initialise)
    vlm.eval()
    if args.grow:
        grow(vlm, args.grow)
    with placed_documents():
        train(vlm, args)
    print(save(vlm, args.out))


if __name__ == "__main__":
    main()
