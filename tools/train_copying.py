"""Add layers to the small model's LLM, and train it to copy values character by character.

    python tools/train_copying.py --init-from runs/small/mean --out runs/small/grown --grow 2

A value is copied character by character, and the position of each character follows from that of the one
before. With four layers the position of the last character was known too late to find the next one, so that
repeated digits were skipped and neighbouring characters copied. ``--grow`` adds layers on top that are the
identity at first: their output projections are zero, their other weights copies of the layers below (Kim
et al., 2023, "SOLAR 10.7B", arXiv:2312.15166, repeat whole layers). At first only these are trained, and
with ``--below 0`` everything except the encoder. A head on the output of the layer before the last one
predicts the box of the next character; it is discarded afterwards.

Batches hold whole pages or documents of less height. Interrupted, it continues like tools/pretrain_small.py.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pretraining import (
    BoxHead,
    Steps,
    arguments,
    box_figures,
    box_values,
    identity_copy,
    location_rows,
    save,
    states_after,
    use_layers,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_small import LOW, answers, place, placed_documents

from hdvl.checkpoints import load_folder
from hdvl.data.synthetic import Document, Field, SyntheticDocuments, locate, read
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Box, Message, SharedPrefix
from hdvl.training.muon import MuonAdamW
from hdvl.training.step_loss import batch_loss

EACH = ("receipt", "chart", "sign")
MIXES: dict[str, dict[str, tuple[Any, ...]]] = {
    "wide": {
        "kinds": (*("table", "form", "tag", "street") * 2, "table", *EACH),
        "widths": (416, 720, 1120),
        "heights": (352, LOW - 12),
    },
    "small": {
        "kinds": (*("tag",) * 6, *("form",) * 4, *("table",) * 3, *("street",) * 2, *EACH),
        "widths": (320, 416, 720),
        "heights": (256, 352, 480),
    },
}
"""The kinds, harder ones more often, and the largest sizes of documents that are not whole pages."""
READS = 0.85
"""The share of questions that ask for a value; the others ask for a box."""
PIXELS = 1 << 20
"""The pixels of all images of a batch are this number times ``--batch``."""


Spelled = list[list[int] | None]
"""The box of each character of an answer, ``None`` for a space; empty if the answer is not a value."""


class Answered(Dataset):
    """Packed batches of documents with questions, and where each character of the answers stands.

    ``mix`` is one of ``MIXES``, ``pages`` the share of batches of whole pages, ``area`` what a batch's
    images hold, in pixels.
    """

    def __init__(self, vlm: VLM, seed: int, *, mix: str, pages: float, area: float) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.tokenizer = vlm.llm.tokenizer
        self.seed, self.mix, self.pages, self.area = seed, MIXES[mix], pages, area

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        rng = random.Random(f"copying/{self.seed}/{index}")
        samples, spelled = [], list[Spelled]()
        for document in self.documents(rng):
            asked = [self.ask(document, field, rng) for field in some(document.fields, rng)]
            samples.append(self.processor(SharedPrefix(tuple(turns for turns, _ in asked))))
            spelled += [boxes for _, boxes in asked]
        batch = pack(samples)
        return batch, *next_boxes(self.tokenizer, batch.labels[0], spelled)

    def documents(self, rng: random.Random) -> Iterator[Document]:
        """Whole pages, or documents of less height, up to the area of a batch."""
        whole, left = rng.random() < self.pages, self.area
        while left > 0:
            wide, high = ((224, rng.choice(self.mix[side])) for side in ("widths", "heights"))
            yield (
                document := SyntheticDocuments(
                    seed=rng.randrange(10**9),
                    kinds=self.mix["kinds"],
                    chinese=0.3,
                    width=(848, 1120) if whole else wide,
                    height=(624, 896) if whole else high,
                    entries=(3, 14),
                )[0]
            )
            left -= document.image.width * document.image.height

    def ask(
        self, document: Document, field: Field, rng: random.Random
    ) -> tuple[list[Message], Spelled]:
        """A question about ``field`` with its answer, and the boxes of the characters it reads."""
        reads = rng.random() < READS
        question = read(field) if reads else locate(field, document, self.boxes)
        x, y, *page = place(*document.image.size)
        boxes = [
            box_values(self.boxes.encode((x1 + x, y1 + y, x2 + x, y2 + y), *page))
            for x1, y1, x2, y2 in (characters(document, field) if reads else ())
        ]
        turns = [
            Message("user", question.text, (document.image,)),
            Message("assistant", question.answer),
        ]
        return turns, spell(question.answer, boxes) if boxes else []


def next_boxes(tokenizer: Any, labels: Tensor, spelled: list[Spelled]) -> tuple[Tensor, Tensor]:
    """The positions before a character of an answer, and that character's box: n, n 4."""
    where, wanted = list[int](), list[list[int]]()
    for run, boxes in zip(answers(labels), spelled, strict=True):
        for step, position in enumerate(run):
            begun = len(tokenizer.decode(labels[run[:step]])) if step else 0
            box = boxes[begun] if begun < len(boxes) else None
            if box is not None:
                where.append(position - 1)
                wanted.append(box)
    return torch.tensor(where, dtype=torch.long), torch.tensor(wanted).view(-1, 4)


def some(fields: Sequence[Field], rng: random.Random) -> list[Field]:
    """At most 18 fields, in random order."""
    return rng.sample(fields, min(18, len(fields)))


def spell(text: str, boxes: Sequence[list[int]]) -> Spelled:
    """One box for each character of ``text``, and ``None`` for its spaces."""
    rest = iter(boxes)
    return [None if char == " " else next(rest) for char in text]


def characters(document: Document, field: Field) -> list[Box]:
    """The boxes of the characters of a field's value, from left to right, without its spaces.

    Nothing where other text runs through the field.
    """
    left, top, right, bottom = field.box
    found = [
        glyph
        for glyph in document.glyphs
        if left - 1 <= (glyph.ink[0] + glyph.ink[2]) / 2 <= right + 1
        and top - 2 <= (glyph.box[1] + glyph.box[3]) / 2 <= bottom + 2
    ]
    same = "".join(glyph.char for glyph in found) == field.value.replace(" ", "")
    return [glyph.box for glyph in found] if same else []


def grow(vlm: VLM, count: int) -> None:
    """Add ``count`` layers on top that are the identity at first."""
    layers = vlm.llm.model.model.layers
    copied = range(len(layers) - count, len(layers))
    use_layers(vlm, [*layers, *(identity_copy(vlm, number) for number in copied)])


def trained_groups(vlm: VLM, below: int, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of the layers from ``below`` on; from 0 on also of bridge, merger and embeddings."""
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
        whose = "head."
        head.load_state_dict(
            {name.removeprefix(whose): state[name] for name in state if name.startswith(whose)}
        )
    groups = trained_groups(vlm, args.below, args.lr, args.decay)
    groups.append({"params": list(head.parameters()), "lr": args.lr})
    optimizer = MuonAdamW(groups, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    modules = nn.ModuleDict({"bridge": vlm.bridge, "merger": vlm.merger, "llm": body, "head": head})
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=0.05)
    area = args.batch * PIXELS
    data = Answered(vlm, args.seed, mix=args.mix, pages=args.pages, area=area)
    order = range(steps.step, args.steps)
    loader = DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=4)
    for batch, where, wanted in loader:
        with states_after(vlm, -2) as kept:
            summed, weight = batch_loss(vlm, batch, first_token_weight=1.5)
        loss = summed / weight
        next_box, found = head(kept[0][0, where], location_rows(vlm).detach(), wanted)
        figures = {"loss": loss, "next box": next_box, **box_figures(found, wanted)}
        steps.take(loss + args.weight * next_box, figures)


def main() -> None:
    parser = arguments(__doc__, steps=950, batch=1, lr=1.2e-3)
    parser.add_argument("--grow", type=int, default=0, help="layers to add")
    parser.add_argument("--below", type=int, default=4, help="layers that stay as they are")
    parser.add_argument("--decay", type=float, default=1.0, help="of the rate, a layer down")
    parser.add_argument("--mix", choices=sorted(MIXES), default="wide", help="of documents")
    parser.add_argument("--pages", type=float, default=0.3, help="share of batches of whole pages")
    parser.add_argument("--weight", type=float, default=0.3, help="of the head's loss")
    parser.add_argument("--head", help="a checkpoint of this tool to take the head from")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vlm = load_folder(args.init_from)
    vlm.eval()
    if args.grow:
        grow(vlm, args.grow)
    with placed_documents():
        train(vlm, args)
    print(save(vlm, args.out, args.init_from))


if __name__ == "__main__":
    main()
