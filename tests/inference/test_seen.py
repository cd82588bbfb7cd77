"""The next turn of a conversation encodes only pictures that are new."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.inference.seen import SeenPictures


@pytest.fixture
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder)


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_the_next_turn_encodes_nothing_and_answers_the_same(
    pipe: Pipeline, tiny_folder: Path
) -> None:
    first = pipe.chat("What is it?", images=picture(0), max_new_tokens=4)
    assert pipe.seen.encoded == 1
    second = pipe.chat("And where?", history=first.history, max_new_tokens=4)
    assert pipe.seen.encoded == 1
    afresh = load(tiny_folder).chat("And where?", history=first.history, max_new_tokens=4)
    assert second.text == afresh.text
    third = pipe.chat("And this?", images=picture(1), history=second.history, max_new_tokens=4)
    assert pipe.seen.encoded == 2
    assert len(third.plans) == 2


def test_only_the_last_question_is_remembered(pipe: Pipeline) -> None:
    for seed in (0, 1, 0):
        pipe.chat("What is it?", images=picture(seed), max_new_tokens=2)
    assert pipe.seen.encoded == 3


def test_features_are_those_of_the_weights_now(pipe: Pipeline) -> None:
    seen, encoder = SeenPictures(pipe.model.encoder), pipe.model.encoder
    pixels = torch.zeros(3, 3, encoder.tile_size, encoder.tile_size, dtype=torch.uint8)
    before = seen(pixels, [1, 2], encoder)
    torch.testing.assert_close(seen(pixels, [1, 2], encoder), before, rtol=0, atol=0)
    assert seen.encoded == 2
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.1)
    after = seen(pixels, [1, 2], encoder)
    torch.testing.assert_close(after, encoder(pixels), rtol=0, atol=0)
    assert seen.encoded == 4
    assert not torch.equal(after, before)


def test_another_precision_is_encoded_anew(pipe: Pipeline) -> None:
    seen, encoder = SeenPictures(pipe.model.encoder), pipe.model.encoder
    pixels = torch.zeros(1, 3, encoder.tile_size, encoder.tile_size, dtype=torch.uint8)
    seen(pixels, [1], encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen(pixels, [1], encoder)
    assert seen.encoded == 2


def test_a_memory_that_is_there_is_used(pipe: Pipeline) -> None:
    other = SeenPictures(pipe.model.encoder)
    pipe.model.recall = other
    pipe.chat("What is it?", images=picture(0), max_new_tokens=2)
    assert (other.encoded, pipe.seen.encoded) == (1, 0)
    assert pipe.model.recall is other


def test_the_model_itself_remembers_nothing(pipe: Pipeline) -> None:
    pipe.chat("What is it?", images=picture(0), max_new_tokens=2)
    assert pipe.model.recall is None
    with pytest.raises(ValueError, match="max_length"):
        Pipeline(model=pipe.model, max_length=3).chat("What is it?", images=picture(0))
    assert pipe.model.recall is None
