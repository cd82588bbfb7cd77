"""Pre-train the small model's lower LLM layers on dense labels: which field is this, and where is it?

    python tools/pretrain_fields.py --init-from runs/small/pretrained --out runs/small/fields

Linear heads on the output of the second layer are trained for the visual tokens of each field's value, and
discarded afterwards. They predict the words that ask for the field, the locations of its box, the position of
the token in the value, and its characters. A question can then find the token by attention and copy the
locations. Documents are as wide as pages but less high, to save time; their tokens get the coordinates that
they would have at a random position on a large page. Interrupted, it continues like tools/pretrain_small.py.
"""

import argparse
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pretraining import (
    TOKEN,
    BoxHead,
    Steps,
    arguments,
    box_figures,
    box_values,
    location_rows,
    matching_loss,
    place_locations,
    place_on_page,
    save,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hdvl.checkpoints import load_folder
from hdvl.data.synthetic import Document, SyntheticDocuments
from hdvl.data.synthetic.cells import classes, token_labels
from hdvl.model import VLM
from hdvl.training.muon import MuonAdamW

SLOTS, WORDS, PLACES = 4, 8, 4
LAYERS = 2
STRETCH = (
    "initial factors of the x and y positions, which are small compared with the bridge's tokens"
)


class Placed(Dataset):
    """Batches of labelled documents of one size, with coordinates of a random position on a large page."""

    def __init__(self, vlm: VLM, seed: int, batch: int) -> None:
        self.tokenizer, self.boxes = vlm.llm.tokenizer, vlm.template.boxes
        self.seed, self.batch = seed, batch

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = random.Random(f"fields/{self.seed}/{index}")
        width, height = 32 * rng.randint(10, 35), 32 * rng.randint(7, 20)
        documents = SyntheticDocuments(
            seed=rng.randrange(10**9),
            kinds=("receipt", "form", "table", "table", "chart", "sign", "street", "street"),
            chinese=0.3,
            width=(width, width),
            height=(height, height),
            entries=(3, 14),
        )
        count = max(1, self.batch * 20 * 13 // (width * height // 1024))
        items = [self.item(documents[number], rng) for number in range(count)]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def item(self, document: Document, rng: random.Random) -> dict[str, Tensor]:
        width, height = document.image.size
        x, y, *page = place_on_page(rng, width, height)
        pixels = torch.frombuffer(bytearray(document.image.tobytes()), dtype=torch.uint8)
        cols, rows = width // TOKEN, height // TOKEN
        across = (x + TOKEN * (torch.arange(cols) + 0.5)) / page[0]
        down = (y + TOKEN * (torch.arange(rows) + 0.5)) / page[1]
        return {
            "pixels": pixels.view(height, width, 3).permute(2, 0, 1),
            "across": across,
            "down": down,
            "chars": token_labels(document, slots=SLOTS),
            **self.fields(document, (x, y), page),
        }

    def fields(
        self, document: Document, place: tuple[int, int], page: list[int]
    ) -> dict[str, Tensor]:
        """The labels of the tokens of each field's value, -1 for all other tokens."""
        width, height = document.image.size
        cols, rows = width // TOKEN, height // TOKEN
        words = torch.full((rows, cols, WORDS), -1)
        boxes = torch.full((rows, cols, 4), -1)
        places = torch.full((rows, cols), -1)
        for field in document.fields:
            left, top, right, bottom = field.box
            moved = left + place[0], top + place[1], right + place[0], bottom + place[1]
            box = torch.tensor(box_values(self.boxes.encode(moved, *page)))
            ids = torch.tensor(self.tokenizer(f" {field.name}")["input_ids"][:WORDS])
            row = min(rows - 1, int((top + bottom) / 2) // TOKEN)
            first, last = int(left + 3) // TOKEN, min(cols - 1, int(right - 3) // TOKEN)
            span = slice(first, last + 1)
            words[row, span, : len(ids)] = ids
            boxes[row, span] = box
            places[row, span] = torch.arange(last + 1 - first).clamp(max=PLACES - 1)
        return {"words": words, "boxes": boxes, "places": places}


class Heads(nn.Module):
    """Linear heads that predict the labels from hidden states."""

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__()
        self.kinds = kinds
        self.norm = nn.RMSNorm(width)
        self.chars = nn.Linear(width, SLOTS * kinds)
        self.boxes = BoxHead(width)
        self.places = nn.Linear(width, PLACES)
        self.key, self.query = (nn.Linear(width, 64, bias=False) for _ in range(2))

    def forward(
        self, states: Tensor, table: Tensor, locations: Tensor, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses, and the accuracy of each head."""
        hidden = self.norm(states)
        chars = batch["chars"]
        inked = chars[..., 0] > 0
        read = self.chars(hidden[inked]).unflatten(-1, (SLOTS, self.kinds))
        found = {"chars": nn.functional.cross_entropy(read.flatten(0, 1), chars[inked].flatten())}
        there = batch["places"] >= 0
        hidden, wanted = hidden[there], batch["boxes"][there]
        found["boxes"], read_boxes = self.boxes(states[there], locations, wanted)
        found["places"] = nn.functional.cross_entropy(self.places(hidden), batch["places"][there])
        matches = self.key(hidden) @ self.query(table).T
        found["words"], words_right = matching_loss(matches, batch["words"][there])
        right = {
            "words right": words_right,
            "chars right": (read.argmax(-1) == chars[inked])[..., 0].float().mean(),
            **box_figures(read_boxes, wanted),
        }
        return found, right


def hidden_states(vlm: VLM, batch: dict[str, Tensor]) -> Tensor:
    """The hidden states (b rows cols width) of each token after the first layers of the LLM."""
    pixels = batch["pixels"]
    count, _, height, width = pixels.shape
    with torch.no_grad():
        features = vlm.encoder(pixels)
    tokens = vlm.bridge(features, (height // 8, width // 8))
    grids = tokens.unflatten(1, (height // TOKEN, width // TOKEN))
    placed = [
        vlm.merger.positions(grid, across, down)
        for grid, across, down in zip(grids, batch["across"], batch["down"], strict=True)
    ]
    newline = vlm.merger.newline.expand(count, height // TOKEN, 1, -1)
    rows = torch.cat((torch.stack(placed), newline), dim=2)
    hidden = vlm.llm.model.model(inputs_embeds=rows.flatten(1, 2), use_cache=False)
    return hidden.last_hidden_state.view(rows.shape)[:, :, :-1]


def train(vlm: VLM, args: argparse.Namespace) -> None:
    """Train bridge, merger and the LLM's first layers so that linear heads read the labels."""
    body = vlm.llm.model.model
    heads = Heads(vlm.llm.width, len(classes()) + 1)
    trained = nn.ModuleList([vlm.bridge, vlm.merger, body.layers, heads])
    parameters = list(trained.parameters())
    optimizer = MuonAdamW(parameters, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    steps = Steps(args.out, trained, optimizer, steps=args.steps, warmup=0.05)
    table = vlm.llm.model.get_input_embeddings().weight.detach()
    locations = location_rows(vlm).detach()
    documents = Placed(vlm, args.seed, args.batch)
    order = range(steps.step, args.steps)
    for batch in DataLoader(documents, batch_size=None, sampler=order, num_workers=1):
        losses, right = heads(hidden_states(vlm, batch), table, locations, batch)
        loss = losses["words"] + losses["boxes"] + 0.5 * losses["places"] + losses["chars"]
        steps.take(loss, losses | right)


@contextmanager
def lower_layers(vlm: VLM) -> Iterator[None]:
    """Meanwhile the LLM has only its first layers, and no final norm."""
    body = vlm.llm.model.model
    layers, norm, depth = body.layers, body.norm, body.config.num_hidden_layers
    body.layers, body.norm, body.config.num_hidden_layers = layers[:LAYERS], nn.Identity(), LAYERS
    yield
    body.layers, body.norm, body.config.num_hidden_layers = layers, norm, depth


def main() -> None:
    parser = arguments(__doc__, steps=1500, batch=6, lr=1.5e-3)
    parser.add_argument("--stretch", type=float, nargs=2, default=(2.0, 4.0), help=STRETCH)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vlm = load_folder(args.init_from)
    vlm.encoder.eval()
    with torch.no_grad():
        vlm.merger.positions.x.weight *= args.stretch[0]
        vlm.merger.positions.y.weight *= args.stretch[1]
    place_locations(vlm)
    with lower_layers(vlm):
        train(vlm, args)
    print(save(vlm, args.out, args.init_from))


if __name__ == "__main__":
    main()
