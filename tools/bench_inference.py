"""Answers by hdvl's engine against transformers' ``generate``, with the same weights and equal ids.

    OMP_NUM_THREADS=1 python tools/bench_inference.py [--what step questions turns mixed half load]
        [--rounds 5]
        [--tokens 64] [--size small|100M] [--threads 1] [--layout internvl|llava_next]

Random weights in float32, written once into a temporary folder by transformers' ``save_pretrained``; both
sides read that folder. One process, both sides in turn in each round and the first of a round changing. CPU
seconds of all threads, medians [min-max], and ratios paired by round. The ids of both sides must be equal.

* ``step``: one prompt, and eight with different images: the first token, each later one, the whole call;
  transformers with its dynamic and its static cache (not compiled). Later tokens are timed within the
  call, in the steps in which all prompts get one. Beside them stands how long it takes to read the weights,
  keys and values of a step at the measured rate of memory, which no way that reads all of them can beat.
* ``questions``: eight questions about one image of 12 tiles, half as many tokens each: transformers from
  scratch, and with the cache of the common prefix read once and copied, as its documentation shows.
* ``turns``: four turns of one chat about that image; transformers reads all of it in each turn.
* ``mixed``: eight images of 1 to 13 tiles: hdvl together against hdvl and transformers one at a time; and
  the time until the first tokens, which bounds the first ratio.
* ``half``: one prompt, hdvl in bfloat16 against hdvl in float32, with the error of the logits after the
  prompt. The ids may differ.
* ``load``: load the folder and read every weight once.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from generate_layouts import LAYOUTS, SIZES, Question, Reference, question
from races import Ids, Race, Steps, bytes_per_second, run
from torch import Tensor, nn
from transformers import DynamicCache, StoppingCriteriaList
from transformers.utils import logging

import hdvl
from hdvl.decoding import SamplingParams
from hdvl.inference import Engine, Request
from hdvl.model import VLM

IMAGE = (896, 672)
"""12 tiles and a thumbnail of InternVL's layout."""

MIXED = (
    (224, 224),
    (448, 224),
    (448, 448),
    (224, 672),
    (672, 448),
    (896, 448),
    (672, 672),
    IMAGE,
)


def _note_time(rows: list[list[float]], ids: Sequence[int]) -> bool:
    """Append the CPU time to each of ``rows``; no answer ends here."""
    for row in rows:
        row.append(time.process_time())
    return False


class Bench:
    """The models of both libraries for one folder."""

    def __init__(self, folder: Path, layout: Reference, tokens: int) -> None:
        self.layout, self.tokens = layout, tokens
        self.vlm: VLM = hdvl.load(folder).model
        self.peer: Any = layout.kind().from_pretrained(folder)
        self.engine = Engine(self.vlm)

    def asked(self, image: tuple[int, int] = IMAGE, seed: int = 0) -> Question:
        """A question about an image of noise."""
        return question(self.vlm, self.layout, image, seed)

    def own(
        self,
        ids: Sequence[Tensor],
        shown: Sequence[Question],
        tokens: int,
        engine: Engine,
        times: list[list[float]] | None = None,
    ) -> Ids:
        """Return the ids of hdvl for prompts that are submitted together; ``times`` get those of each."""
        params = SamplingParams(max_new_tokens=tokens, stop_ids=())
        made = [
            engine.submit(
                Request(
                    row,
                    one.pixels,
                    tuple(one.plans),
                    params,
                    None if times is None else partial(_note_time, [times[number]]),
                )
            )
            for number, (row, one) in enumerate(zip(ids, shown, strict=True))
        ]
        return [generation.wait().ids for generation in made]

    def theirs(
        self, ids: Tensor, tokens: int, times: list[list[float]] | None = None, **options: Any
    ) -> Ids:
        """Return the ids of transformers for prompts (b, s); ``times`` get those of each new id."""
        noted = (
            []
            if times is None
            else [lambda found, scores, **_: torch.full((len(found),), _note_time(times, []))]
        )
        with torch.inference_mode():
            found = self.peer.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList(noted),
                **options,
            )
        rows: Ids = found[:, ids.shape[1] :].tolist()
        return rows

    def step(self, batch: int, rounds: int) -> bool:
        """First tokens, later tokens and whole calls of ``batch`` prompts."""
        shown = [self.asked(seed=seed) for seed in range(batch)]
        ids = torch.cat([one.ids for one in shown])
        peer = {name: torch.cat([one.peer[name] for one in shown]) for name in shown[0].peer}
        static = {"cache_implementation": "static", "disable_compile": True}
        steps: dict[str, list[Steps]] = {}

        def timed(name: str, call: Callable[[list[list[float]]], Ids]) -> Callable[[], Ids]:
            def way() -> Ids:
                self.engine.clear_caches()
                found = Steps(time.process_time(), [[] for _ in range(batch)])
                steps.setdefault(name, []).append(found)
                return call(found.rows)

            return way

        calls: dict[str, Callable[[list[list[float]]], Ids]] = {
            "hdvl": lambda rows: self.own(list(ids), shown, self.tokens, self.engine, rows),
            "transformers, dynamic cache": lambda rows: self.theirs(ids, self.tokens, rows, **peer),
            "transformers, static cache": lambda rows: self.theirs(
                ids, self.tokens, rows, **peer, **static
            ),
        }
        whole = Race(
            f"batch {batch}, {self.tokens} new tokens",
            {name: timed(name, call) for name, call in calls.items()},
        )
        for number in range(rounds + 1):
            whole.round(number)
        first = Race(f"batch {batch}, all first tokens", {})
        later = Race(f"batch {batch}, each later token", {})
        for name in calls:
            first.seconds[name] = [one.first for one in steps[name][1:]]
            later.seconds[name] = [one.later for one in steps[name][1:]]
        for found in (first, later, whole):
            found.report()
        self.report_roof(batch, ids.shape[1] + self.tokens // 2, later)
        return whole.equal

    def report_roof(self, batch: int, positions: int, later: Race) -> None:
        """Print how long reading weights, keys and values takes, and what share of a step that is."""
        text: Any = self.peer.get_decoder()
        read = [*text.layers.parameters(), self.peer.get_output_embeddings().weight]
        size = sum(value.numel() * value.element_size() for value in read)
        config = self.peer.config.get_text_config()
        width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
        size += batch * positions * config.num_hidden_layers * 2 * width * read[0].element_size()
        rate = bytes_per_second()
        names = ", ".join(
            f"{name} {size / rate / statistics.median(seconds):.0%}"
            for name, seconds in later.seconds.items()
        )
        print(
            f"    a step reads {size / 1e6:.0f} MB, which takes {size / rate * 1e3:.2f} ms at "
            f"{rate / 1e9:.1f} GB/s; share of a later token: {names}"
        )

    def prompts(self, shown: Question, count: int) -> list[Tensor]:
        """Prompts (s,) that differ in the words after the image."""
        generator = torch.Generator().manual_seed(7)
        last = int((shown.ids[0] == self.vlm.image_token_id).nonzero()[-1]) + 1
        words = torch.randint(1, self.vlm.image_token_id - 50, (count, 28), generator=generator)
        return [torch.cat([shown.ids[0, :last], row]) for row in words]

    def questions(self, rounds: int) -> bool:
        """Eight questions about one image."""
        shown, tokens = self.asked(), max(2, self.tokens // 2)
        prompts = self.prompts(shown, 8)
        start = len(prompts[0]) - 28

        def own() -> Ids:
            self.engine.clear_caches()
            return self.own(prompts, [shown] * 8, tokens, self.engine)

        def one_by_one() -> Ids:
            self.engine.clear_caches()
            return [self.own([row], [shown], tokens, self.engine)[0] for row in prompts]

        def scratch() -> Ids:
            return [self.theirs(row[None], tokens, **shown.peer)[0] for row in prompts]

        def prefix() -> Ids:
            kept = DynamicCache(config=self.peer.config.get_text_config())
            with torch.inference_mode():
                self.peer(prompts[0][None, :start], **shown.peer, past_key_values=kept)
            return [
                self.theirs(row[None], tokens, past_key_values=copy.deepcopy(kept))[0]
                for row in prompts
            ]

        race = Race(
            f"eight questions about one image, {tokens} new tokens each",
            {
                "hdvl, asked together": own,
                "hdvl, one after the other": one_by_one,
                "transformers, prefix cache": prefix,
                "transformers, from scratch": scratch,
            },
        )
        return run(race, rounds)

    def turns(self, rounds: int) -> bool:
        """Four turns of one chat."""
        shown, tokens = self.asked(), max(2, self.tokens // 2)
        added = [row[-28:] for row in self.prompts(shown, 4)]
        first = self.prompts(shown, 1)[0][:-28]

        def chat(say: Callable[[Tensor], list[int]]) -> Ids:
            ids, said = first, []
            for words in added:
                ids = torch.cat([ids, words])
                said.append(say(ids))
                ids = torch.cat([ids, torch.tensor(said[-1])])
            return said

        def own() -> Ids:
            self.engine.clear_caches()
            return chat(lambda ids: self.own([ids], [shown], tokens, self.engine)[0])

        def scratch() -> Ids:
            return chat(lambda ids: self.theirs(ids[None], tokens, **shown.peer)[0])

        race = Race(
            f"four turns of one chat, {tokens} new tokens each",
            {"hdvl": own, "transformers, from scratch": scratch},
        )
        return run(race, rounds)

    def mixed(self, rounds: int) -> bool:
        """Eight images of several sizes, together and one at a time."""
        shown = [self.asked(size, seed) for seed, size in enumerate(MIXED)]
        ids = [one.ids[0] for one in shown]
        single = Engine(self.vlm, max_slots=1)

        def say(engine: Engine) -> Ids:
            engine.clear_caches()
            return self.own(ids, shown, self.tokens, engine)

        def prompts() -> Ids:
            self.engine.clear_caches()
            self.own(ids, shown, 1, self.engine)
            return []

        tiles = ", ".join(str(len(one.pixels)) for one in shown)
        race = Race(
            f"eight images of {tiles} tiles, {self.tokens} new tokens each",
            {
                "hdvl, together": lambda: say(self.engine),
                "hdvl, one at a time": lambda: say(single),
                "transformers, one at a time": lambda: [
                    self.theirs(row[None], self.tokens, **one.peer)[0]
                    for row, one in zip(ids, shown, strict=True)
                ],
            },
        )
        alone = Race("the same, the first new token of each alone", {"hdvl, together": prompts})
        return run(race, rounds) and run(alone, rounds)

    def half(self, rounds: int) -> bool:
        """The whole call in bfloat16 and in float32."""
        shown = self.asked()
        narrow = copy.deepcopy(self.vlm).bfloat16()
        engines = {"hdvl, bfloat16": Engine(narrow), "hdvl, float32": self.engine}
        said: dict[str, Ids] = {}

        def way(name: str) -> Callable[[], Ids]:
            def say() -> Ids:
                engines[name].clear_caches()
                said[name] = self.own([shown.ids[0]], [shown], self.tokens, engines[name])
                return []

            return say

        ok = run(
            Race(f"bfloat16, {self.tokens} new tokens", {name: way(name) for name in engines}),
            rounds,
        )
        with torch.inference_mode():
            found, wanted = (
                model(shown.ids, shown.pixels, shown.plans).logits[0].float()
                for model in (narrow, self.vlm)
            )
        error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        likeliest = (found.argmax(-1) == wanted.argmax(-1)).float().mean()
        pairs = zip(*(rows[0] for rows in said.values()), strict=True)
        same = next((place for place, (a, b) in enumerate(pairs) if a != b), self.tokens)
        print(
            f"    relative error of the logits of a position: median {float(error.median()):.4f}, "
            f"largest {float(error.max()):.4f}; the same likeliest id at {float(likeliest):.1%} of "
            f"{len(found)} positions; the first {same} of {self.tokens} new ids are equal"
        )
        return ok


def load(folder: Path, layout: Reference, rounds: int) -> bool:
    """Load the folder with both sides, and read every weight."""

    def touched(model: nn.Module) -> Ids:
        with torch.inference_mode():
            for parameter in model.parameters():
                parameter.sum()
        return []

    race = Race(
        "load",
        {
            "hdvl": lambda: touched(hdvl.load(folder).model),
            "transformers": lambda: touched(layout.kind().from_pretrained(folder)),
        },
    )
    return run(race, rounds)


def main() -> int:
    """Run the races that were asked for; 1 if any ids differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ("step", "questions", "turns", "mixed", "half", "load")
    parser.add_argument("--what", choices=kinds, nargs="+", default=kinds)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="new ones; at least 4")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layout", choices=LAYOUTS, default="internvl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    layout = LAYOUTS[args.layout]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / args.layout
        layout.write(folder, SIZES[args.size])
        bench = Bench(folder, layout, args.tokens)
        count = sum(value.numel() for value in bench.peer.parameters())
        print(
            f"{args.layout}: {count / 1e6:.0f}M parameters, float32, {args.threads} thread(s), "
            f"{args.rounds} rounds, prompts of {bench.asked().ids.shape[1]} ids; CPU time",
            flush=True,
        )
        races: dict[str, Callable[[], bool]] = {
            "step": lambda: all([bench.step(batch, args.rounds) for batch in args.batches]),
            "questions": lambda: bench.questions(args.rounds),
            "turns": lambda: bench.turns(args.rounds),
            "mixed": lambda: bench.mixed(args.rounds),
            "half": lambda: bench.half(args.rounds),
            "load": lambda: load(folder, layout, args.rounds),
        }
        same = [races[what]() for what in args.what]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
