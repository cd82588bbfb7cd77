"""Compiled parts compared with uncompiled ones for several shapes."""

from collections.abc import Sequence
from typing import Any

import torch

from hdvl.callbacks.compiling import Compile
from hdvl.model import VLM
from hdvl.processor import Batch, collate, pack
from hdvl.training.step_loss import batch_loss
from tests.callbacks.fakes import fake_module, fake_trainer
from tests.test_shared_prefix import alone, shared
from tests.tiny_model import tiny_vlm
from tests.training.layouts import samples

TRAINER = fake_trainer(strategy=object())
TILES, TOKENS = (4, 8, 32), (64, 512, 1024)


def padded(vlm: VLM) -> list[Batch]:
    given = samples(vlm)
    return [collate([given[number]], pad_id=0) for number in (0, 2, 3, 4, 6, 7)]


def packed(vlm: VLM) -> list[Batch]:
    """Rows of other documents, lengths and numbers of documents; with and without images."""
    given = [*samples(vlm), *alone(vlm)]
    rows = [(0, 2, 3), (1,), (4, 9), (7, 5, 0), (8, 10, 11, 12), (2, 3, 0), (12, 1)]
    return [pack([given[number] for number in row]) for row in rows]


def branching(vlm: VLM) -> list[Batch]:
    """Rows in which conversations share images, and how many do is not the same."""
    first, lone, last = shared(vlm)
    return [pack(row) for row in ([first], [lone, last], [last, first, lone])]


BATCHES = {"padded": padded, "packed": packed, "shared": branching}


def check_compiled(process: int, kind: str, backend: str) -> None:
    """The compiler is asked once a bucket, and losses and gradients are those without it."""
    torch.set_num_threads(1)
    vlm, plain = tiny_vlm(), tiny_vlm()
    compiling = Compile(parts=["encoder", "llm"], tiles=TILES, tokens=TOKENS, backend=backend)
    module = fake_module(vlm=vlm)
    compiling.on_fit_start(TRAINER, module)
    batches = BATCHES[kind](vlm)
    for batch in [*batches, *batches]:
        torch.testing.assert_close(_loss(vlm, batch), _loss(plain, batch), rtol=0, atol=1e-5)
        for ours, theirs in zip(vlm.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4)
    _check_shapes(compiling, kind, batches)
    compiling.on_fit_end(TRAINER, module)
    assert "forward" not in vars(vlm.encoder) and "forward" not in vars(vlm.llm)


class Strict(Compile):
    """Ends a run with an error unless every bucket of both parts was compiled, and none again."""

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        found = {part for part, *_ in self.graphs}
        assert found == set(self.parts) and not self.again, (self.graphs, self.again)
        super().on_fit_end(trainer, pl_module)


def _check_shapes(compiling: Compile, kind: str, batches: Sequence[Batch]) -> None:
    shapes = {key[:2] for key in compiling.graphs}
    tokens = {shape[1] for part, shape in shapes if part == "llm"}
    tiles = {shape[0] for part, shape in shapes if part == "encoder"}
    assert tokens and tokens <= set(TOKENS) and tiles and tiles <= set(TILES), shapes
    assert len(tokens) < len({batch.input_ids.shape for batch in batches}), shapes
    assert set(compiling.graphs.values()) == {1}, compiling.graphs
    assert not compiling.again


def _loss(model: VLM, batch: Batch) -> torch.Tensor:
    model.zero_grad()
    loss, weight = batch_loss(model, batch)
    (loss / weight).backward()
    return (loss / weight).detach()
