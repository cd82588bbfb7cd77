"""Conversations that share an image's tokens give the results of each conversation alone."""

from functools import cache

import pytest
import torch
from PIL import Image

from hdvl.model import VLM
from hdvl.processor import Batch, Processor, Sample, collate, pack
from hdvl.protocols import Message, SharedPrefix
from tests.test_packed import forward, gradients, total, vlm

QUESTIONS = [[("A?", "yes " * 5), ("B " * 9, "n")], [("And what of C?", "it " * 2)], [("D", "d")]]


def make_image(width: int, height: int, seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(256, (height, width, 3), generator=generator)
    return Image.fromarray(noise.byte().numpy())


def talk(turns: list[tuple[str, str]], images: tuple[Image.Image, ...]) -> list[Message]:
    messages = []
    for number, (question, answer) in enumerate(turns):
        messages.append(Message("user", question, images if number == 0 else ()))
        messages.append(Message("assistant", answer))
    return messages


@cache
def conversations() -> list[SharedPrefix]:
    """Three about one image, a lone one, two about two images."""
    one, two = (make_image(64, 32, 0),), (make_image(90, 60, 1), make_image(32, 32, 2))
    return [
        SharedPrefix(tuple(talk(turns, one) for turns in QUESTIONS)),
        SharedPrefix((talk([("What is it?", "noise")], (make_image(32, 64, 3),)),)),
        SharedPrefix(tuple(talk(turns, two) for turns in QUESTIONS[1:])),
    ]


def shared(model: VLM) -> list[Sample]:
    processor = Processor.of(model)
    first, lone, last = conversations()
    return [processor(first), processor(lone.conversations[0]), processor(last)]


def alone(model: VLM) -> list[Sample]:
    processor = Processor.of(model)
    return [processor(talk) for several in conversations() for talk in several.conversations]


def own_logits(batch: Batch, logits: torch.Tensor) -> list[torch.Tensor]:
    """What the model says at the positions of each conversation, those of the beginning repeated."""
    assert batch.segments is not None
    found, start = [], 0
    for segment in batch.segments:
        head, *rests = (segment,) if isinstance(segment, int) else segment
        beginning, start = logits[0, start : start + head], start + head
        for rest in rests:
            found.append(torch.cat([beginning, logits[0, start : start + rest]]))
            start += rest
        if not rests:
            found.append(beginning)
    return found


def test_an_image_is_in_the_row_once() -> None:
    model = vlm()
    samples, each = shared(model), alone(model)
    assert [len(sample.suffix_lengths) for sample in samples] == [3, 0, 2]
    slots = [int((sample.ids == model.image_token_id).sum()) for sample in samples]
    assert slots == [int((each[i].ids == model.image_token_id).sum()) for i in (0, 3, 4)]
    assert [len(s.pixels) for s in samples] == [len(each[i].pixels) for i in (0, 3, 4)]
    first, beginning = samples[0], samples[0].segment[0]
    assert first.ids[beginning - 1] == model.image_token_id
    for sample, rest in zip(
        each[:3], first.ids[beginning:].split(first.suffix_lengths), strict=True
    ):
        assert torch.equal(sample.ids, torch.cat([first.ids[:beginning], rest]))
    assert len(first.ids) == sum(len(s.ids) for s in each[:3]) - 2 * beginning


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3"])
def test_together_equals_separately(model_type: str) -> None:
    model = vlm(model_type)
    each, together = collate(alone(model), pad_id=0), pack(shared(model))
    apart, found = forward(model, each), forward(model, together)
    lengths = each.attention_mask.sum(1).tolist()
    for ours, row, length in zip(
        own_logits(together, found.logits), apart.logits, lengths, strict=True
    ):
        torch.testing.assert_close(ours, row[:length], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, apart.loss, rtol=1e-5, atol=1e-5)
    expected, ours = gradients(model, apart.loss), gradients(model, found.loss)
    assert expected.keys() == ours.keys()
    assert {name.partition(".")[0] for name in ours} == {"encoder", "bridge", "merger", "llm"}
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("weighting", ["token", "sample", "sqrt"])
def test_each_conversation_has_its_weight_of_a_single_one(weighting: str) -> None:
    model, each = vlm(), alone(vlm())
    found = forward(model, pack(shared(model)), weighting, all_logits=False)
    weights = [total(sample, weighting) for sample in each]
    apart = [forward(model, pack([sample]), weighting).loss for sample in each]
    expected = sum(w * loss for w, loss in zip(weights, apart, strict=True)) / sum(weights)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-5)
    expected_gradients, ours = gradients(model, expected), gradients(model, found.loss)
    for name in expected_gradients:
        torch.testing.assert_close(ours[name], expected_gradients[name], rtol=1e-5, atol=1e-5)


def test_another_conversation_changes_nothing() -> None:
    model, samples = vlm(), shared(vlm())
    with torch.no_grad():
        before = own_logits(pack(samples), forward(model, pack(samples)).logits)
        first = samples[0]
        place = slice(
            first.segment[0] + first.suffix_lengths[0], len(first.ids) - first.suffix_lengths[2]
        )
        first.ids[place] = torch.randint(1, 200, (first.suffix_lengths[1],))
        after = own_logits(pack(samples), forward(model, pack(samples)).logits)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if number == 1:
            assert not torch.allclose(old, new, atol=1e-3)
        else:
            torch.testing.assert_close(old, new, rtol=1e-6, atol=1e-6)


def test_such_batches_are_rows_without_padding() -> None:
    samples = shared(vlm())
    batch = collate(samples, pad_id=0)
    assert batch.segments == tuple(sample.segment for sample in samples)
    assert batch.input_ids.shape == (1, sum(len(sample.ids) for sample in samples))
    assert batch.attention_mask.all() and len(batch.rows) == 3
    assert collate(samples[1:2], pad_id=0).segments is None


def test_a_prompt_is_one_conversation() -> None:
    with pytest.raises(ValueError, match="a prompt must be one conversation"):
        Processor.of(vlm())(conversations()[0], add_generation_prompt=True)
