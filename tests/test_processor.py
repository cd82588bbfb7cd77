"""The processor: images get as many slots as the merger says, and batches are padded."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hdvl.processor import Processor, Sample, collate
from hdvl.protocols import Message
from tests.test_model import messages, tiny_vlm


def test_each_image_has_its_slots():
    vlm = tiny_vlm()
    image = Image.new("RGB", (200, 90), "white")
    sample = Processor.of(vlm)(messages(image))
    slots = int((sample.ids == vlm.image_token_id).sum())
    assert slots == vlm.merger.token_count(sample.plans[0])
    assert sample.pixels.shape[0] == sample.plans[0].count
    said = vlm.llm.tokenizer.decode(sample.ids[sample.labels != -100])
    assert said == "This.<|im_end|>"


def test_a_prompt_has_no_labels():
    sample = Processor.of(tiny_vlm())([Message("user", "Hi")], add_generation_prompt=True)
    assert (sample.labels == -100).all()


def test_too_long_images_are_refused_not_cut():
    vlm = tiny_vlm()
    image = Image.new("RGB", (600, 600), "white")
    with pytest.raises(ValueError, match="must not be longer than max_length=50"):
        Processor.of(vlm, max_length=50)(messages(image))


def test_images_that_are_cut_already_are_not_cut_again():
    vlm = tiny_vlm()
    image = Image.new("RGB", (200, 90), "white")
    small = vlm.tiler(Image.new("RGB", (20, 20), "black"))
    processor = replace(Processor.of(vlm), cut={id(image): small})
    sample = processor(messages(image))
    assert sample.plans == (small.plan,) and torch.equal(sample.pixels, small.pixels)


@pytest.mark.parametrize(("side", "edge"), [("left", 0), ("right", -1)])
def test_padding(side, edge):
    def sample(length):
        ids = torch.arange(1, length + 1)
        return Sample(ids, ids.clone(), torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ())

    batch = collate([sample(2), sample(4)], pad_id=9, side=side)
    assert batch.input_ids.shape == (2, 4)
    assert batch.input_ids[0, edge] == 9 and batch.labels[0, edge] == -100
    assert batch.attention_mask.sum(1).tolist() == [2, 4]
    assert batch.to("cpu").pixels.shape[0] == 0
