"""The next turn of a conversation encodes only images that are new."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.inference.recent_features import RecentFeatures
from hdvl.protocols import Message


@pytest.fixture
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder)


def make_image(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_the_next_turn_encodes_nothing_and_answers_the_same(
    pipe: Pipeline, tiny_folder: Path
) -> None:
    first = pipe.chat("What is it?", images=make_image(0), max_new_tokens=4)
    assert pipe.feature_cache.encoded == 1
    second = pipe.chat("And where?", history=first.history, max_new_tokens=4)
    assert pipe.feature_cache.encoded == 1
    afresh = load(tiny_folder).chat("And where?", history=first.history, max_new_tokens=4)
    assert second.text == afresh.text
    third = pipe.chat("And this?", images=make_image(1), history=second.history, max_new_tokens=4)
    assert pipe.feature_cache.encoded == 2
    assert len(third.plans) == 2


def test_only_the_last_question_is_remembered(pipe: Pipeline) -> None:
    for seed in (0, 1, 0):
        pipe.chat("What is it?", images=make_image(seed), max_new_tokens=2)
    assert pipe.feature_cache.encoded == 3


def add(weight: Tensor) -> None:
    with torch.no_grad():
        weight.add_(0.1)


def flip_signs_through_data(weight: Tensor) -> None:
    weight.data[-1].neg_()


def reorder_through_numpy(weight: Tensor) -> None:
    values = weight.detach().numpy()
    values[:] = values[::-1].copy()


def fill_storage(weight: Tensor) -> None:
    weight.untyped_storage().fill_(0)


CHANGES = [add, flip_signs_through_data, reorder_through_numpy, fill_storage]


@pytest.mark.parametrize("change", CHANGES)
def test_features_are_those_of_the_weights_now(
    pipe: Pipeline, change: Callable[[Tensor], None]
) -> None:
    encoder = pipe.model.encoder
    cache = RecentFeatures(encoder)
    pixels = torch.arange(3 * 3 * 32 * 32).reshape(3, 3, 32, 32).to(torch.uint8)
    images = torch.split(pixels, [1, 2])
    before = cache.features(images, pipe.model._encode_each)
    again = cache.features(images, pipe.model._encode_each)
    torch.testing.assert_close(again, before, rtol=0, atol=0)
    assert cache.encoded == 2
    change(max(encoder.parameters(), key=Tensor.numel))
    after = cache.features(images, pipe.model._encode_each)
    torch.testing.assert_close(torch.cat(after), encoder(pixels), rtol=0, atol=0)
    assert cache.encoded == 4
    assert not torch.equal(after[1], before[1])


def test_another_precision_is_encoded_anew(pipe: Pipeline) -> None:
    encoder = pipe.model.encoder
    cache = RecentFeatures(encoder)
    pixels = torch.zeros(1, 3, encoder.tile_size, encoder.tile_size, dtype=torch.uint8)
    cache.features([pixels], pipe.model._encode_each)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.features([pixels], pipe.model._encode_each)
    assert cache.encoded == 2


def test_a_cache_that_is_given_is_used(pipe: Pipeline) -> None:
    given = RecentFeatures(pipe.model.encoder)
    other = Pipeline(model=pipe.model, feature_cache=given)
    assert other.feature_cache is given
    for _ in range(2):
        other.chat("What is it?", images=make_image(0), max_new_tokens=2)
    assert (given.encoded, pipe.feature_cache.encoded) == (1, 0)


def test_the_model_itself_keeps_nothing(pipe: Pipeline) -> None:
    tiles: list[int] = []
    pipe.model.encoder.register_forward_pre_hook(lambda _, inputs: tiles.append(len(inputs[0])))
    question = [Message("user", "What is it?", (make_image(0),))]
    sample = pipe.processor(question, add_generation_prompt=True)
    for _ in range(2):
        pipe.model.encode_images(sample.pixels, sample.plans)
    assert tiles == [len(sample.pixels)] * 2
    assert pipe.model.encode_images(sample.pixels[:0], [], pipe.feature_cache) == []
