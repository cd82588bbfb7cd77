"""Teach the small model to say that something is not on the page, and to understand other wordings.

    python tools/train_refusals.py --init-from runs/small/model --out runs/small/refusals

The encoder stays as it is; all other parts are trained. Three quarters of the documents are those of the
first seven kinds, which the model must not forget. Of the others two thirds have the layouts of
``layouts.yaml`` in many fonts, and one third are pictures that are no documents. Some look photographed.

Each image is read once and asked for many things (``hdvl.protocols.SharedPrefix``): values, in the words of
the document and in others, boxes, and what is not on the page. ``tools/shared_attention.py`` computes these
questions together. Whole pages are read without gradients there: only the tokens of their questions learn.
Smaller documents have the coordinates of a place on a large page (``tools/train_small.py``).

The learning rate rises for 15 steps, stays constant, and falls to zero over the last part of ``--steps``.
Started again with the same ``--out`` it continues from its last checkpoint, also with another ``--steps``.
"""

import argparse
import random
from collections.abc import Iterator
from typing import Any

import torch
from pretraining import Steps, arguments
from shared_attention import positions_of, rows_of, use_shared_attention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_copying import some
from train_small import placed_documents

from hdvl.checkpoints import load_folder, read_config, save_folder
from hdvl.data.synthetic import Document, Field, SyntheticDocuments, absent, locate, read
from hdvl.data.synthetic.looks import photographed
from hdvl.data.synthetic.questions import wordings
from hdvl.loss import targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Message, SharedPrefix
from hdvl.training.muon import MuonAdamW

OWN = ("table", "table", "form", "form", "tag", "street", "receipt", "chart", "sign")
OTHERS = (*("described",) * 6, "picture", "picture", "picture")
FEW_FONTS, CHINESE, INVENTED = 0.8, 0.28, 0.15
"""Shares of the first seven kinds in older fonts and in Chinese, and of the others with invented labels."""
WORN, WORN_OTHERS = 0.12, 0.3
"""Shares of the first seven kinds and of the others that look as if photographed."""
LOCATED, AGAIN, ABSENT, REWORDED = 0.6, 0.4, 0.6, 0.3
"""Shares of the fields that are located too, asked for again, and beside which something absent is asked for.
The last one is that of questions in other words."""
SOUGHT = 0.55
"""The share of questions for something absent that ask where it is."""
FIRST = 2.0
"""The weight of the first token of an answer."""


class Asked(Dataset):
    """Packed batches of documents with questions.

    ``pages`` is the share of batches of whole pages, ``budget`` about how many tokens a batch has.
    """

    def __init__(self, vlm: VLM, seed: int, *, own: float, pages: float, budget: int) -> None:
        self.processor, self.boxes = Processor.of(vlm), vlm.template.boxes
        self.seed, self.own, self.pages, self.budget = seed, own, pages, budget

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Batch:
        rng = random.Random(f"refusals/{self.seed}/{index}")
        whole = rng.random() < self.pages
        samples, left = [], self.budget * (1.5 if whole else 1.0)
        while left > 0:
            document = self.document(rng, whole=whole)
            turns = tuple(self.ask(document, rng))
            samples.append(self.processor(SharedPrefix(turns)))
            left -= len(samples[-1].ids)
        return pack(samples)

    def document(self, rng: random.Random, *, whole: bool) -> Document:
        """A whole page or a smaller document."""
        own = rng.random() < self.own
        document = SyntheticDocuments(
            seed=rng.randrange(10**9),
            kinds=OWN if own else OTHERS,
            chinese=CHINESE,
            width=(848, 1120) if whole else (320, 640),
            height=(624, 896) if whole else (224, 420),
            entries=(3, 14),
            fonts="few" if own and rng.random() < FEW_FONTS else "many",
            invented=INVENTED,
        )[0]
        if rng.random() > (WORN if own else WORN_OTHERS):
            return document
        worn = photographed(document, rng)
        return worn if worn.fields or not document.fields else document

    def ask(self, document: Document, rng: random.Random) -> Iterator[list[Message]]:
        """Questions about a document with their answers."""
        for field in some(document.fields, rng):
            asked = [(field, False)] * (1 + (rng.random() < AGAIN))
            asked += [(field, True)] * (rng.random() < LOCATED)
            yield from (self.turns(document, *one, rng) for one in asked)
            if rng.random() < ABSENT:
                yield self.turns(document, None, rng.random() < SOUGHT, rng)
        if not document.fields:
            yield from (self.turns(document, None, place, rng) for place in (False, True) * 2)

    def turns(
        self, document: Document, field: Field | None, locates: bool, rng: random.Random
    ) -> list[Message]:
        """A question about ``field``, or about something that is not there, with its answer."""
        known = wordings("where" if locates else "read", document.language)
        wording = rng.choice(known) if rng.random() < REWORDED else None
        if field is None:
            invented = document.language == "en" and rng.random() < INVENTED / 2
            question = absent(document, rng, wording, invented=invented)
        elif locates:
            question = locate(field, document, self.boxes, wording)
        else:
            question = read(field, wording)
        return [
            Message("user", question.text, (document.image,)),
            Message("assistant", question.answer),
        ]


def answer_losses(vlm: VLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each token of the answers, and its weight.

    The LLM attends by ``tools/shared_attention.py``.
    """
    assert batch.segments is not None
    visual = vlm.encode_images(batch.pixels, batch.plans)
    rows = vlm.merge_image_tokens(batch.input_ids, visual)
    model = vlm.llm.model
    states = model.model(
        inputs_embeds=rows,
        use_cache=False,
        position_ids=positions_of(batch.segments)[None],
        rows=rows_of(batch.segments),
    ).last_hidden_state[0]
    wanted = targets(batch.labels, batch.segments)
    weights = token_weights(wanted, batch.segments, "token", first_token_weight=FIRST)[0]
    asked = wanted[0] >= 0
    logits = model.lm_head(states[asked]).float()
    losses = nn.functional.cross_entropy(logits, wanted[0][asked], reduction="none")
    return losses, weights[asked]


def groups(vlm: VLM, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of all parts but the encoder; the rate falls from the last layer of the LLM down."""
    body = vlm.llm.model.model
    depth = len(body.layers)
    rates: list[tuple[nn.Module, float]] = [(body.norm, lr)]
    rates += [(layer, lr * decay ** (depth - 1 - n)) for n, layer in enumerate(body.layers)]
    rates += [(body.embed_tokens, 0.5 * lr), (vlm.merger, 0.5 * lr), (vlm.bridge, 0.3 * lr)]
    return [{"params": list(part.parameters()), "lr": rate} for part, rate in rates]


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train all parts but the encoder."""
    use_shared_attention(vlm.llm.model)
    vlm.encoder.requires_grad_(False)
    optimizer = MuonAdamW(
        groups(vlm, args.lr, args.decay), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    modules = nn.ModuleDict({"vlm": vlm})
    steps = Steps(args.out, modules, optimizer, steps=args.steps, warmup=15, cooldown=args.cooldown)
    data = Asked(vlm, args.seed, own=args.own, pages=args.pages, budget=args.batch)
    order = range(steps.step, args.steps)
    loader = DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=4)
    for batch in loader:
        with torch.autocast("cpu", torch.bfloat16):
            losses, weights = answer_losses(vlm, batch)
        loss = (losses * weights).sum() / weights.sum()
        likely = (losses < 0.69).float().mean()  # right if its probability is above a half
        steps.take(loss, {"loss": loss, "right": likely})


def main() -> None:
    parser = arguments(__doc__, steps=330, batch=3300, lr=6e-4)
    parser.add_argument("--own", type=float, default=0.76, help="share of the first seven kinds")
    parser.add_argument("--pages", type=float, default=0.22, help="share of batches of whole pages")
    parser.add_argument("--decay", type=float, default=0.93, help="of the rate, a layer down")
    parser.add_argument("--cooldown", type=float, default=0.9, help="share of the steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = read_config(args.init_from)
    vlm = load_folder(args.init_from).eval()  # batch norms keep what they know of whole pages
    with placed_documents():
        train(vlm, args)
    print(save_folder(vlm, args.out, config))


if __name__ == "__main__":
    main()
