"""The loss of a step does not depend on its layout: accumulation, ranks, packing."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hdvl.processor import Processor, Sample, collate
from hdvl.protocols import Message, SharedPrefix
from hdvl.training.module import VLMModule
from hdvl.training.step_loss import RowMean, StepLoss
from tests.tiny_model import tiny_vlm
from tests.training.layouts import gradients, lay_out, samples, two_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*Total length of `list` across ranks is zero.*"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:.*overridden `transfer_batch_to_device`.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]
WHOLE = [[8]]


@pytest.fixture(scope="module")
def found() -> list[Sample]:
    return samples(tiny_vlm())


@pytest.fixture(scope="module")
def expected(found: list[Sample]) -> dict[str, Tensor]:
    """One process, one batch of padded rows."""
    return gradients(lay_out(found, WHOLE, "padded"))


def check(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, atol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value.isfinite().all(), name
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(ours[name], value, rtol=0, atol=atol * scale, msg=name)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ("packed", [[8]]),
        ("padded", [[1] * 8]),
        ("packed", [[1] * 8]),
        ("packed", [[1, 5, 2]]),
    ],
)
def test_one_process(
    how: str,
    shape: list[list[int]],
    found: list[Sample],
    expected: dict[str, Tensor],
) -> None:
    check(gradients(lay_out(found, shape, how)), expected)


@pytest.mark.slow
def test_weights_of_samples(found: list[Sample]) -> None:
    whole = lay_out(found, WHOLE, "padded")
    parts = lay_out(found, [[3, 1, 4]], "packed")
    for weighting in ("sample", "sqrt"):
        options: dict[str, Any] = {"weighting": weighting}
        theirs = gradients(whole, **options)
        check(gradients(parts, **options), theirs)


@pytest.mark.slow
def test_first_tokens_and_shared_images(found: list[Sample]) -> None:
    """Conversations that share their images, in micro-batches, are the conversations themselves."""
    vlm = tiny_vlm()
    processor, image = Processor.of(vlm), Image.new("RGB", (64, 32), (200, 40, 0))
    several = [
        [Message("user", "Say " * n, (image,)), Message("assistant", "yes " * n)] for n in (1, 4, 2)
    ]
    options: dict[str, Any] = {"weighting": "sqrt", "first_token_weight": 4.0}
    alone = lay_out([*map(processor, several), *found[:3]], [[6]], "padded")
    expected = gradients(alone, **options)
    shared = [processor(SharedPrefix(tuple(several))), *found[:3]]
    for how in ("packed", "padded"):
        ours = gradients(lay_out(shared, [[2, 2]], how), **options)
        check(ours, expected, atol=5e-6)  # an image's gradient is summed in another order
    plain = gradients(alone, weighting="sqrt")
    assert not torch.allclose(plain["loss"], expected["loss"], rtol=1e-3)


def test_validation_reads_shared_images_as_each_alone() -> None:
    """The same loss and the same answers counted."""
    processor, image = Processor.of(tiny_vlm()), Image.new("RGB", (64, 32), (200, 40, 0))
    several = [[Message("user", q, (image,)), Message("assistant", q * 2)] for q in ("a", "bc")]
    module = VLMModule(tiny_vlm(), optimizer={}, tuning={})
    logged: list[dict[str, tuple[float, int]]] = []

    def log(name: str, value: Tensor, *, batch_size: int, sync_dist: bool) -> None:
        logged[-1][name] = (float(value.detach()), batch_size)

    samples = [processor(SharedPrefix(tuple(several)))], [processor(talk) for talk in several]
    with patch.object(module, "log", log):
        for some in samples:
            logged.append({})
            module.validation_step(collate(some, pad_id=0), 0)
    assert logged[0]["validation/answers"] == logged[1]["validation/answers"]
    (shared, count), (alone, other) = (found["validation/loss"] for found in logged)
    assert shared == pytest.approx(alone, abs=1e-5) and count == other


def unsaid(sample: Sample) -> Sample:
    """Without a supervised token."""
    return replace(sample, labels=torch.full_like(sample.labels, -100))


@pytest.mark.slow
def test_two_ranks(found: list[Sample], tmp_path: Path) -> None:
    texts = [found[1], found[5]]
    images = [sample for sample in found if sample.plans]
    silent = [*found[:4], *map(unsaid, found[4:])]
    mute = list(map(unsaid, found))
    cases = {  # samples, layout over the ranks
        "one rank has text alone": ([*images, *texts], [[6], [2]], "packed"),
        "four micro-batches": (found, [[1] * 4, [1] * 4], "padded"),
        "now and then no image": (found, [[1, 1, 2], [2, 1, 1]], "packed"),
        "nothing supervised on one rank": (silent, [[2, 2], [2, 2]], "packed"),
        "nothing supervised at all": (mute, [[2, 2], [2, 2]], "packed"),
        "no image at all": (texts, [[1], [1]], "packed"),
    }
    jobs = [(tmp_path / name, lay_out(*case)) for name, case in cases.items()]
    context = torch.multiprocessing.spawn(two_ranks, args=(free_port(), jobs), nprocs=2, join=False)
    alone = {
        name: gradients(lay_out(case[0], [[len(case[0])]], "packed"))
        for name, case in cases.items()
    }
    while not context.join(timeout=120):
        pass
    for name, theirs in alone.items():
        ours = torch.load(tmp_path / name, weights_only=True)
        some = {key for key, value in theirs.items() if value.any()}
        parts = {key.partition(".")[0] for key in some}
        if name == "nothing supervised at all":
            assert not some
        elif name == "no image at all":
            assert parts == {"llm", "loss"}
        else:
            assert parts == {"encoder", "bridge", "merger", "llm", "loss"}
        check(ours, theirs)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_gradients_that_overflow_are_reported() -> None:
    sums = StepLoss(reduce=lambda tensor: tensor, accumulate=2)
    for _ in range(2):
        sums.add(torch.ones(()), torch.ones(()))
    with pytest.raises(RuntimeError, match=r"set trainer\.accumulate_grad_batches=1"):
        sums.close([nn.Parameter(torch.ones(1))])


def test_the_mean_between_rows() -> None:
    row, values = RowMean(), [1.0, 2.0, 6.0, 4.0, 8.0]
    means = [float(row.add(torch.tensor(v), step=k, every=3)) for k, v in enumerate(values)]
    assert means == [1.0, 1.5, 3.0, 4.0, 6.0]
    resumed = RowMean()
    resumed.restore(row.state())
    assert float(resumed.add(torch.tensor(3.0), step=5, every=3)) == 5.0
