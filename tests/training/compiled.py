"""Compiled parts beside plain ones, shape after shape."""

from types import SimpleNamespace
from typing import Any

import torch

from hdvl.model import VLM
from hdvl.processor import Batch, collate
from hdvl.training.compiling import Compile
from tests.tiny_model import tiny_vlm
from tests.training.layouts import samples

TRAINER: Any = SimpleNamespace(strategy=object())


def check_compiled(process: int) -> None:
    """The compiler is asked once a bucket, and losses and gradients are those without it."""
    torch.set_num_threads(1)
    vlm, plain = tiny_vlm(), tiny_vlm()
    given = samples(vlm)
    compiling = Compile(
        parts=["encoder", "llm"], tiles=[2, 4, 8], tokens=[64, 256], backend="aot_eager"
    )
    module: Any = SimpleNamespace(vlm=vlm)
    compiling.setup(TRAINER, module, "fit")
    for _ in range(2):
        for number in (0, 2, 3, 4, 6, 7):
            batch = collate([given[number]], pad_id=0)
            torch.testing.assert_close(_loss(vlm, batch), _loss(plain, batch), rtol=0, atol=1e-5)
            for ours, theirs in zip(vlm.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4)
    shapes = {key[:2] for key in compiling.graphs}
    tiles, tokens = [("encoder", (n,)) for n in (2, 4, 8)], [("llm", (1, n)) for n in (64, 256)]
    assert 3 <= len(shapes) and shapes <= {*tiles, *tokens}, shapes
    assert set(compiling.graphs.values()) == {1}, compiling.graphs
    assert not compiling.again
    compiling.teardown(TRAINER, module, "fit")
    assert "forward" not in vars(vlm.encoder) and "forward" not in vars(vlm.llm)


def _loss(model: VLM, batch: Batch) -> torch.Tensor:
    model.zero_grad()
    loss = model(
        batch.input_ids, batch.pixels, batch.plans, None, batch.labels, every_logit=False
    ).loss
    assert loss is not None
    loss.backward()
    return loss.detach()
