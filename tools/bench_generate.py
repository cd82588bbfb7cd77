"""Load, prefill and decode: hdvl against transformers' own InternVL and LLaVA-NeXT, same weights.

    OMP_NUM_THREADS=1 python tools/bench_generate.py [--rounds 5] [--tokens 32] [--layouts internvl]

About 100M random parameters in float32, written once into a temporary folder by transformers'
``save_pretrained``; both sides read that folder. One process, one thread, both sides in turn in each
round and the first of a round changing; CPU seconds of all threads, medians [min-max], ratios paired by
round. A load ends when every weight has been read once: a file that is only mapped has not been loaded.
Prefill is from the tiles to the first new token (hdvl's are uint8 and normalised inside, transformers'
are normalised beforehand), decode the time of each token after it, in one greedy call of ``generate``.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from generate_layouts import LAYOUTS, Question, question
from torch import Tensor, nn
from transformers.utils import logging

import hdvl
from hdvl.model import VLM

LIMIT = 5e-5
"""Most that a logit may differ, as in the tests of the importers."""


class Watch:
    """A streamer that notes when ids come; the first thing that ``generate`` hands it is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.process_time())

    def end(self) -> None:
        pass


@dataclass
class Side:
    """One way to load a folder and to ask the model in it."""

    load: Callable[[Path], nn.Module]
    say: Callable[[nn.Module, Question, int, Any], Tensor]
    logits: Callable[[nn.Module, Question], Tensor]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)


def own_side() -> Side:
    def load(folder: Path) -> VLM:
        return hdvl.load(folder).model

    def say(model: Any, asked: Question, tokens: int, watch: Any) -> Tensor:
        return model.generate(
            asked.ids,
            asked.pixels,
            asked.plans,
            max_new_tokens=tokens,
            stop_ids=[],
            streamer=watch,
        )

    def logits(model: Any, asked: Question) -> Tensor:
        with torch.inference_mode():
            return model(asked.ids, asked.pixels, asked.plans).logits

    return Side(load, say, logits)


def peer_side(kind: Any) -> Side:
    def load(folder: Path) -> nn.Module:
        return kind.from_pretrained(folder)

    def say(model: Any, asked: Question, tokens: int, watch: Any) -> Tensor:
        ids = model.generate(
            asked.ids,
            attention_mask=torch.ones_like(asked.ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=watch,
            **asked.peer,
        )
        return ids[:, asked.ids.shape[1] :]

    def logits(model: Any, asked: Question) -> Tensor:
        with torch.inference_mode():
            return model(asked.ids, **asked.peer).logits

    return Side(load, say, logits)


def touch(model: nn.Module) -> None:
    """Read every weight once."""
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.sum()


def one_load(side: Side, folder: Path) -> None:
    gc.collect()
    start = time.process_time()
    model = side.load(folder)
    built = time.process_time()
    touch(model)
    side.note("load, weights only mapped", built - start)
    side.note("load", time.process_time() - start)


def one_answer(side: Side, model: nn.Module, asked: Question, tokens: int) -> Tensor:
    watch = Watch()
    start = time.process_time()
    ids = side.say(model, asked, tokens, watch)
    first, *_, last = watch.times[1:]
    side.note("prefill", first - start)
    side.note("decode, a token", (last - first) / (tokens - 1))
    side.note("whole answer", time.process_time() - start)
    return ids


def compare(name: str, folder: Path, rounds: int, tokens: int) -> bool:
    """All rounds of one layout; whether both sides said the same."""
    layout = LAYOUTS[name]
    layout.write(folder)
    sides = {"hdvl": own_side(), "transformers": peer_side(layout.kind())}
    models = {label: side.load(folder) for label, side in sides.items()}
    asked = question(models["hdvl"], layout)
    count = sum(value.numel() for value in models["transformers"].parameters())
    print(
        f"\n{name}: {count / 1e6:.0f}M parameters, {len(asked.pixels)} tiles, "
        f"{int((asked.ids == models['hdvl'].image_token_id).sum())} visual tokens in a prompt of "
        f"{asked.ids.shape[1]}, {tokens} new tokens, {rounds} rounds"
    )
    said: dict[str, Tensor] = {}
    for number in range(rounds + 1):
        turn = list(sides) if number % 2 else list(reversed(sides))
        for label in turn:
            one_load(sides[label], folder)
        for label in turn:
            said[label] = one_answer(sides[label], models[label], asked, tokens)
        if not number:  # warms up
            for side in sides.values():
                side.seconds.clear()
    report(sides["hdvl"], sides["transformers"])
    found, wanted = (side.logits(models[label], asked) for label, side in sides.items())
    gap, same = float((found - wanted).abs().max()), torch.equal(*said.values())
    print(
        f"  greedy ids equal: {'yes' if same else 'NO'} ({len(said['hdvl'][0].unique())} different "
        f"ones); largest difference of a logit: {gap:.1e} of {float(wanted.abs().max()):.1f}"
    )
    return same and gap < LIMIT


def report(own: Side, peer: Side) -> None:
    for what, seconds in own.seconds.items():
        theirs = peer.seconds[what]
        ratios = sorted(b / a for a, b in zip(seconds, theirs, strict=True))
        print(
            f"  {what:26} hdvl {spread(seconds)}  transformers {spread(theirs)}  "
            f"transformers / hdvl {statistics.median(ratios):.2f} [{ratios[0]:.2f}-{ratios[-1]:.2f}]"
        )


def spread(seconds: list[float]) -> str:
    middle, least, most = (
        value * 1e3 for value in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return f"{middle:7.1f} ms [{least:.1f}-{most:.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="new ones; at least 3")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        same = [
            compare(name, Path(folder) / name, args.rounds, args.tokens) for name in args.layouts
        ]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
