"""Conversations with images packed into one row give the results of padded rows."""

from functools import cache

import pytest
import torch
from PIL import Image
from torch import Tensor

from hdvl.loss import targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, Sample, collate, pack
from hdvl.protocols import Message
from tests.tiny_model import NODE, tiny_node, tiny_vlm

SIZES = [(64, 32), None, (90, 60), (32, 32)]


@cache
def vlm(model_type: str = "qwen2") -> VLM:
    return tiny_vlm(tiny_node(llm={"config": {**NODE["llm"]["config"], "model_type": model_type}}))


def samples(model: VLM | None = None) -> list[Sample]:
    """Four conversations for ``model``, one of them text alone."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, size in enumerate(SIZES):
        images = ()
        if size is not None:
            noise = torch.randint(256, (size[1], size[0], 3), generator=generator)
            images = (Image.fromarray(noise.byte().numpy()),)
        turns = [Message("user", "Say it " * number, images), Message("assistant", "yes " * 3)]
        found.append(Processor.of(model or vlm())(turns))
    return found


def gradients(model: VLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def forward(model: VLM, batch: Batch, weighting: str = "token", *, all_logits: bool = True):
    """The output, with the mean over supervised tokens as the loss."""
    wanted = targets(batch.labels, batch.segments)
    weights = token_weights(wanted, batch.segments, weighting)
    return model(
        batch.input_ids,
        batch.pixels,
        batch.plans,
        None,
        batch.labels,
        segments=batch.segments,
        weights=weights / weights.sum(),
        all_logits=all_logits,
    )


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3"])
def test_packed_equals_unpacked(model_type: str) -> None:
    model, several = vlm(model_type), samples()
    padded, packed = collate(several, pad_id=0), pack(several)
    assert packed.segments == tuple(len(sample.ids) for sample in several)
    apart, together = forward(model, padded), forward(model, packed)
    rows = [row[:length] for row, length in zip(apart.logits, packed.segments, strict=True)]
    torch.testing.assert_close(together.logits[0], torch.cat(rows), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.loss, apart.loss, rtol=1e-5, atol=1e-5)
    expected, found = gradients(model, apart.loss), gradients(model, together.loss)
    assert {name.partition(".")[0] for name in found} == {"encoder", "bridge", "merger", "llm"}
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("weighting", ["token", "sample", "sqrt"])
def test_the_head_on_supervised_positions_alone_changes_nothing(
    layout: str, weighting: str
) -> None:
    model, several = vlm(), samples()
    batch = pack(several) if layout == "packed" else collate(several, pad_id=0)
    whole = forward(model, batch, weighting)
    part = forward(model, batch, weighting, all_logits=False)
    assert part.logits.shape[1] < whole.logits.shape[1]
    torch.testing.assert_close(part.loss, whole.loss, rtol=1e-6, atol=1e-6)
    expected, found = gradients(model, whole.loss), gradients(model, part.loss)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    # Weights follow samples, whatever the layout.
    alone = sum(
        forward(model, pack([sample]), weighting).loss * total(sample, weighting)
        for sample in several
    ) / sum(total(sample, weighting) for sample in several)
    torch.testing.assert_close(part.loss, alone, rtol=1e-5, atol=1e-5)


def total(sample: Sample, weighting: str) -> float:
    """What all tokens of a sample weigh."""
    wanted = targets(sample.labels[None], None)
    return float(token_weights(wanted, None, weighting).sum())


@pytest.mark.parametrize("poison", ["tokens", "pixels"])
def test_another_document_changes_nothing(poison: str) -> None:
    model, several = vlm(), samples()
    with torch.no_grad():
        before = forward(model, pack(several)).logits[0].split([len(s.ids) for s in several])
        victim = several[2]
        if poison == "tokens":
            text = victim.ids != model.image_token_id
            victim.ids[text] = torch.randint(1, 200, (int(text.sum()),))
        else:
            victim.pixels.bitwise_not_()
        after = forward(model, pack(several)).logits[0].split([len(s.ids) for s in several])
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if number == 2:
            assert not torch.allclose(old, new, atol=1e-3)
        else:
            torch.testing.assert_close(old, new, rtol=1e-6, atol=1e-6)


def test_a_step_of_text_alone_gives_every_parameter_a_zero_gradient() -> None:
    model = tiny_vlm().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    batch = pack(samples()[1:2])
    output = forward(model, batch)
    output.loss.backward()
    assert output.visual_tokens == [] and torch.equal(numbers, torch.get_rng_state())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert name.startswith("llm.") == bool(parameter.grad.any()), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name  # the statistics of batch norms too
    assert all(module.training for module in model.modules())


def test_a_batch_without_a_supervised_token_gives_zeros() -> None:
    model = tiny_vlm().train()
    batch = pack(samples())
    batch.labels.fill_(-100)
    output = model(
        batch.input_ids,
        batch.pixels,
        batch.plans,
        None,
        batch.labels,
        segments=batch.segments,
        weights=torch.zeros(batch.labels.shape),
        all_logits=False,
    )
    output.loss.backward()
    assert output.logits.shape[1] == 0 and float(output.loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
