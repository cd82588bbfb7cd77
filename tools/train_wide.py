"""Train the small model on all kinds of documents, fonts and questions together, with a frozen encoder.

    python tools/train_wide.py --init-from runs/small/model --out runs/small/wide

The documents have many layouts and sizes, and some look as if photographed. Labels are invented words in half
of the layouts of ``layouts.yaml``, so that they cannot be learned by heart: the model has to compare the
letters of the question with those on the page. Some pictures are not documents. Each image is read once and
asked for many things (``hdvl.protocols.SharedPrefix``): values, in the words of the document and in others,
boxes, and what is not on the page. ``tools/shared_attention.py`` computes these questions together. Whole
pages are read without gradients there: only the tokens of their questions learn. Smaller documents have the
coordinates of a place on a large page (``tools/train_small.py``, ``tools/page_positions.py``).

``--insert`` adds layers between those of the LLM that change nothing at first. ``--reader`` takes encoder and
bridge from another folder, such as one of ``tools/pretrain_wide.py``. Four heads are trained with the model
and discarded afterwards; ``--heads`` takes them from an earlier training. Three of them are pointers
(``tools/pointers.py``): from each token of the question that spells a label to its letters on the page, from
the end of the question to the label and the value, and to the next character of the value. The fourth
predicts the box of that character, or of the value that is to be located.

The learning rate rises for 30 steps, stays constant, and falls to zero over the last part of ``--steps``.
Started again with the same ``--out`` it continues from its last checkpoint, also with another ``--steps``.
Two processes with a thread each (``--processes 2 --threads 1``) answer more questions a second than one with
two threads.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from page_positions import page_positions
from pointers import PointerHead, Pointers, TokenGrid, Wanted, pointers, spelled_label, wanted_of
from pretraining import (
    LOCATIONS,
    BoxHead,
    Steps,
    arguments,
    box_figures,
    identity_copy,
    location_rows,
    start_from,
    states_after,
    use_layers,
)
from shared_attention import compile_elementwise, positions_of, rows_of, use_shared_attention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_copying import some
from train_small import answers, place, placed_documents

from hdvl.checkpoints import read_config, save_folder
from hdvl.data.synthetic import Document, Field, SyntheticDocuments, absent, locate, read
from hdvl.data.synthetic.looks import photographed
from hdvl.data.synthetic.questions import wordings
from hdvl.loss import targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Message, SharedPrefix
from hdvl.training.muon import MuonAdamW

OWN = ("table", "table", "form", "form", "tag", "street", "receipt", "chart", "sign")
OTHERS = (*("described",) * 11, "picture")
PAGE = (848, 1120), (624, 896)
PARTS = ((320, 640), (224, 420)), ((480, 960), (300, 600))
"""The ranges of width and height of whole pages and of smaller documents, in pixels."""
CHINESE, INVENTED = 0.28, 0.5
"""Shares of the first seven kinds in Chinese, and of the others with invented labels."""
WORN, WORN_OTHERS = 0.2, 0.35
"""Shares of the first seven kinds and of the others that look as if photographed."""
STYLED, STYLED_OTHERS = 0.15, 0.5
"""Shares of them whose characters are stretched, slanted or bolder, as in fonts that are not there."""
LOCATED, AGAIN, ABSENT, LINES = 0.6, 0.4, 0.5, 0.3
"""Shares of the fields that are located too, asked for again, beside which something absent is asked for, and
whose whole line is asked for, which teaches to copy more characters than a value has."""
REWORDED, LINE = 0.3, 40
"""The share of questions in other words, and the most characters of a line that is asked for."""
SOUGHT = 0.5
"""The share of questions for something absent that ask where it is."""
FIRST = 2.0
"""The weight of the first token of an answer."""
SETTLE = 40
"""The first steps, in which the losses of the heads train these alone."""


class Wide(Dataset):
    """Packed batches of documents with questions, and what their answers look at.

    ``own`` is the share of the first seven kinds, ``few`` that of documents in the older fonts, ``pages`` the
    share of batches of whole pages, and ``budget`` about how many tokens a batch has.
    """

    def __init__(
        self, vlm: VLM, seed: int, *, own: float, few: float, pages: float, budget: int
    ) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.tokenizer, self.tiler, self.merger = vlm.llm.tokenizer, vlm.tiler, vlm.merger
        self.image_token_id = vlm.image_token_id
        self.seed, self.own, self.few, self.pages, self.budget = seed, own, few, pages, budget

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Batch, Pointers, Pointers, Pointers]:
        rng = random.Random(f"wide/{self.seed}/{index}")
        # Processes have whole pages in the same steps, so that they wait less for each other.
        whole = random.Random(f"wide/{index}").random() < self.pages
        samples, asked = [], list[tuple[TokenGrid, Wanted]]()
        left = self.budget * (1.5 if whole else 1.0)
        while left > 0:
            document = self.document(rng, whole=whole)
            questions = self.ask(document, rng)
            plan = self.tiler.plan(*document.image.size)
            grid = TokenGrid(plan, self.merger.places(plan), place(*document.image.size))
            samples.append(self.processor(SharedPrefix(tuple(turns for turns, _ in questions))))
            asked += [(grid, wanted) for _, wanted in questions]
            left -= len(samples[-1].ids)
        batch = pack(samples)
        return batch, *self.pointers(batch, asked)

    def pointers(
        self, batch: Batch, asked: list[tuple[TokenGrid, Wanted]]
    ) -> tuple[Pointers, Pointers, Pointers]:
        """What the questions and the answers of a batch look at."""
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
            batch.input_ids[0],
        )

    def document(self, rng: random.Random, *, whole: bool) -> Document:
        """A whole page or a smaller document."""
        own = rng.random() < self.own
        width, height = PAGE if whole else rng.choice(PARTS)
        document = SyntheticDocuments(
            seed=rng.randrange(10**9),
            kinds=OWN if own else OTHERS,
            chinese=CHINESE,
            width=width,
            height=height,
            entries=(3, 14),
            font_size=(13, 18) if own else (12, 19),
            fonts="few" if rng.random() < self.few else "many",
            invented=INVENTED,
            styled=STYLED if own else STYLED_OTHERS,
        )[0]
        if rng.random() > (WORN if own else WORN_OTHERS):
            return document
        worn = photographed(document, rng)
        return worn if worn.fields or not document.fields else document

    def ask(self, document: Document, rng: random.Random) -> list[tuple[list[Message], Wanted]]:
        """Questions about a document with their answers, and what these look at."""
        asked = [self.turns(document, *one, rng) for one in _things(document, rng)]
        return asked + [(turns, Wanted()) for turns in _lines(document, rng)]

    def turns(
        self, document: Document, field: Field | None, locates: bool, rng: random.Random
    ) -> tuple[list[Message], Wanted]:
        """A question about ``field``, or about something that is not there, with its answer."""
        known = wordings("where" if locates else "read", document.language)
        wording = rng.choice(known) if rng.random() < REWORDED else None
        wanted = Wanted()
        if field is None:
            invented = document.language == "en" and rng.random() < INVENTED / 2
            question = absent(document, rng, wording, invented=invented)
        else:
            if locates:
                question = locate(field, document, self.boxes, wording)
            else:
                question = read(field, wording)
            wanted = wanted_of(document, field, question.answer, locates=locates)
            wanted.spelled = spelled_label(self.tokenizer, document, field, question.text)
        turns = [
            Message("user", question.text, (document.image,)),
            Message("assistant", question.answer),
        ]
        return turns, wanted


def _things(document: Document, rng: random.Random) -> Iterator[tuple[Field | None, bool]]:
    """The fields to ask for, ``None`` for something absent, and whether they are to be located."""
    for field in some(document.fields, rng):
        yield field, False
        if rng.random() < AGAIN:
            yield field, False
        if rng.random() < LOCATED:
            yield field, True
        if rng.random() < ABSENT:
            yield None, rng.random() < SOUGHT
    if not document.fields:
        yield from ((None, place) for place in (False, True) * 2)


def _lines(document: Document, rng: random.Random) -> Iterator[list[Message]]:
    """Questions for the lines that hold fields of an English document, with their answers."""
    for field in document.fields if document.language == "en" else ():
        found = [line for line in document.lines if field.value in line]
        if len(found) == 1 and len(found[0]) <= LINE and rng.random() < LINES:
            question = f"Copy the line with {field.value if rng.random() < 0.3 else field.name}."
            asked = Message("user", question, (document.image,))
            yield [asked, Message("assistant", found[0])]


def insert_layers(vlm: VLM, config: dict[str, Any], after: Sequence[int]) -> None:
    """Add a layer after each of these layers of the LLM, and to ``config``, that changes nothing at first."""
    layers = list[nn.Module]()
    for number, layer in enumerate(vlm.llm.model.model.layers):
        layers += [layer, identity_copy(vlm, number)] if number in after else [layer]
    use_layers(vlm, layers)
    told, own = config["model"]["llm"]["config"], vlm.llm.model.config
    told["num_hidden_layers"], told["layer_types"] = own.num_hidden_layers, list(own.layer_types)


def use_reader(vlm: VLM, config: dict[str, Any], folder: Path) -> None:
    """Take the encoder and the bridge, and what ``config`` says about them, from another folder."""
    other, told = start_from(folder), read_config(folder)
    vlm.encoder, vlm.bridge = other.encoder, other.bridge
    for part in ("encoder", "bridge"):
        config["model"][part] = told["model"][part]


def answer_losses(vlm: VLM, batch: Batch, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each token of the answers, and its weight.

    The LLM attends by ``tools/shared_attention.py``. Without ``positions`` tokens have those of their place.
    """
    assert batch.segments is not None
    visual = vlm.encode_images(batch.pixels, batch.plans)
    rows = vlm.merge_image_tokens(batch.input_ids, visual)
    model = vlm.llm.model
    states = model.model(
        inputs_embeds=rows,
        use_cache=False,
        position_ids=(positions_of(batch.segments) if positions is None else positions)[None],
        rows=rows_of(batch.segments),
    ).last_hidden_state[0]
    wanted = targets(batch.labels, batch.segments)
    weights = token_weights(wanted, batch.segments, "token", first_token_weight=FIRST)[0]
    asked = wanted[0] >= 0
    logits = model.lm_head(states[asked]).float()
    losses = nn.functional.cross_entropy(logits, wanted[0][asked], reduction="none")
    return losses, weights[asked]


class Heads(nn.Module):
    """Pointers to the letters of a label, to what is named and to the next character, and its box."""

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.spelled, self.named, self.next = (PointerHead(vlm.llm.width) for _ in range(3))
        self.box = BoxHead(vlm.llm.width)

    def forward(
        self,
        layers: Sequence[Tensor],
        table: Tensor,
        spelled: Pointers,
        named: Pointers,
        following: Pointers,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses on states (s width) after three layers, and figures; none without pointers."""
        losses, figures = dict[str, Tensor](), dict[str, Tensor]()
        names, all_wanted = ("spelled", "named", "next"), (spelled, named, following)
        for name, states, wanted in zip(names, layers, all_wanted, strict=True):
            if len(wanted.queries):  # a batch may ask for nothing that is on its pages
                losses[name], figures[f"{name} right"] = getattr(self, name)(states, wanted)
        if len(following.queries):
            losses["box"], found = self.box(layers[-1][following.queries], table, following.boxes)
            figures |= box_figures(found, following.boxes)
        return losses, figures


def groups(vlm: VLM, heads: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of all parts but the encoder.

    The rate falls from the last layer of the LLM down. The heads, which start from random weights, have
    three times as much.
    """
    body = vlm.llm.model.model
    depth = len(body.layers)
    rates: list[tuple[nn.Module, float]] = [(body.norm, lr), (heads, 3 * lr)]
    rates += [(layer, lr * decay ** (depth - 1 - n)) for n, layer in enumerate(body.layers)]
    rates += [(body.embed_tokens, 0.5 * lr), (vlm.merger, 0.5 * lr), (vlm.bridge, 0.3 * lr)]
    return [{"params": list(part.parameters()), "lr": rate} for part, rate in rates]


def batches(data: Wide, order: Sequence[int]) -> DataLoader:
    """The batches with these numbers, drawn by a process of their own.

    The places of documents are patches of this process (``placed_documents``), which only a fork of it has.
    """
    options: dict[str, Any] = {"num_workers": 1, "prefetch_factor": 4}
    return DataLoader(
        data, batch_size=None, sampler=order, multiprocessing_context="fork", **options
    )


def train(vlm: VLM, args: argparse.Namespace, seed: int) -> None:
    """Train all parts but the encoder, on the documents of ``seed``."""
    use_shared_attention(vlm.llm.model)
    vlm.encoder.requires_grad_(False)
    heads = Heads(vlm)
    if args.heads is not None:
        state = torch.load(args.heads, weights_only=True)["modules"]
        own = {key: value for key, value in state.items() if key.startswith("heads.")}
        heads.load_state_dict({key.removeprefix("heads."): value for key, value in own.items()})
    optimizer = MuonAdamW(
        groups(vlm, heads, args.lr, args.decay), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    modules = nn.ModuleDict({"vlm": vlm, "heads": heads})
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=30, cooldown=args.cooldown)
    data = Wide(vlm, seed, own=args.own, few=args.few, pages=args.pages, budget=args.batch)
    loader = batches(data, range(steps.step, args.steps))
    depth = len(vlm.llm.model.model.layers)
    for batch, *wanted in loader:
        with (
            torch.autocast("cpu", torch.bfloat16),
            states_after(vlm, depth // 2 - 2) as first,
            states_after(vlm, depth // 2 - 1) as early,
            states_after(vlm, depth - 2) as late,
        ):
            positions = page_positions(batch, vlm.image_token_id, vlm.tiler)
            losses, weights = answer_losses(vlm, batch, positions)
        loss = (losses * weights).sum() / weights.sum()
        likely = (losses < 0.69).float().mean()  # right if its probability is above a half
        states = [kept[0][0].float() for kept in (first, early, late)]
        if steps.step < SETTLE and args.heads is None:
            states = [part.detach() for part in states]
        table = location_rows(vlm).detach()
        missed, figures = heads(states, table, *wanted)
        figures = {"loss": loss, "right": likely, **missed, **figures}
        steps.take(loss + args.weight * sum(missed.values(), torch.zeros(())), figures)


def main() -> None:
    parser = arguments(__doc__, steps=3300, batch=3300, lr=1.6e-3)
    parser.add_argument("--insert", type=int, nargs="*", help="add a layer after each of these")
    parser.add_argument("--reader", type=Path, help="a folder to take encoder and bridge from")
    parser.add_argument(
        "--heads", type=Path, help="a checkpoint of this tool to take the heads from"
    )
    parser.add_argument("--own", type=float, default=0.4, help="share of the first seven kinds")
    parser.add_argument("--few", type=float, default=0.25, help="share of pages in older fonts")
    parser.add_argument("--pages", type=float, default=0.15, help="share of batches of whole pages")
    parser.add_argument("--weight", type=float, default=0.25, help="of the losses of the heads")
    parser.add_argument("--decay", type=float, default=0.95, help="of the rate, a layer down")
    parser.add_argument("--cooldown", type=float, default=0.5, help="share of the steps")
    parser.add_argument("--compile", action="store_true", help="compile parts of the LLM's layers")
    parser.add_argument("--processes", type=int, default=1, help="processes that share each step")
    args = parser.parse_args()
    if args.processes == 1:
        run(0, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (args, f"{folder}/store"), nprocs=args.processes)


def run(rank: int, args: argparse.Namespace, meet: str | None = None) -> None:
    """Train as one of ``args.processes`` processes, which meet at the file ``meet``."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if meet is not None:
        count = args.processes
        store = torch.distributed.FileStore(meet, count)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    config = read_config(args.init_from)
    vlm = start_from(args.init_from)
    if args.insert:
        insert_layers(vlm, config, args.insert)
    if args.reader is not None:
        use_reader(vlm, config, args.reader)
    if args.compile:
        compile_elementwise()
    with placed_documents():
        train(vlm, args, seed=args.seed + 1000 * rank)
    if rank == 0:
        print(save_folder(vlm, args.out, config))


if __name__ == "__main__":
    main()
