"""Sizes computed without pixels equal those of the samples; each conversation is measured once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hdvl.data.module import ChatData, Samples
from hdvl.data.readers import LlavaConversations
from hdvl.data.sizes import Size, Sizes, image_size, measure, size_by
from hdvl.images import read_image
from hdvl.processor import Processor, Sample
from hdvl.protocols import Message, SharedPrefix
from hdvl.templates import Absolute
from tests.tiny_model import tiny_vlm


class Talks:
    """Conversations whose images grow with their number; counts how often each is asked for."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> list[Message]:
        self.calls.append(index)
        images = tuple(Image.new("RGB", (20 + 5 * index, 40)) for _ in range(index % 3))
        return [Message("user", "See " * index, images), Message("assistant", "yes")]


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.of(tiny_vlm())


def test_a_size_is_that_of_the_sample(processor: Processor) -> None:
    talks = Talks()
    for index in (0, 1, 2, 5, 20, 38):
        sample = processor(talks[index])
        assert measure(processor, talks[index]) == (len(sample.ids), len(sample.pixels))


def test_a_size_counts_a_shared_image_once(processor: Processor) -> None:
    image = Image.new("RGB", (90, 40))
    several = SharedPrefix(
        tuple([Message("user", text, (image,)), Message("assistant", "yes")] for text in "abc")
    )
    sample = processor(several)
    assert len(sample.suffix_lengths) == 3
    assert measure(processor, several) == (len(sample.ids), len(sample.pixels))


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize(("suffix", "turn"), [("jpg", 6), ("png", 1), ("tiff", 6), ("jpg", 3)])
def test_the_upright_size(tmp_path: Path, suffix: str, turn: int, exif: bool) -> None:
    path = tmp_path / f"it.{suffix}"
    image = Image.new("RGB", (30, 20))
    tags = image.getexif()
    tags[274] = turn
    image.save(path, exif=tags)
    assert image_size(path, exif=exif) == read_image(path, exif=exif).size


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_each_is_measured_once(processor: Processor, num_workers: int) -> None:
    talks = Talks()
    sizes = Sizes(talks, processor, num_workers=num_workers)
    expected = [measure(processor, Talks()[index]) for index in range(40)]
    assert sizes.of([3, 1, 2]) == [expected[index] for index in (3, 1, 2)]
    sizes.prefetch([2, 7, 8])
    assert sizes.of([2, 7, 8]) == [expected[index] for index in (2, 7, 8)]
    sizes.prefetch([9])  # announced, but something else is asked for
    assert sizes.of(list(range(40))) == expected
    assert isinstance(expected[0], Size) and int(torch.count_nonzero(sizes.table[:, 0])) == 40
    if not num_workers:
        assert sorted(talks.calls) == list(range(40))


@pytest.mark.parametrize("exif", [True, False])
def test_boxes_of_rows_are_in_the_image_that_the_tiler_sees(tmp_path: Path, exif: bool) -> None:
    """For a JPEG with an EXIF rotation, boxes are written relative to the rotated image."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (100, 50)).save(tmp_path / "a.jpg", exif=turned)
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "[20, 10, 40, 30]"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.jpg", "conversations": turns}))
    vlm = tiny_vlm()
    processor = Processor.of(vlm)
    processor = replace(processor, tiler=replace(processor.tiler, exif=exif))
    reader = LlavaConversations(
        path=str(tmp_path / "a.jsonl"),
        image_folder=str(tmp_path),
        written=Absolute(),
        boxes=vlm.template.boxes,
    )
    data = ChatData(train=reader, processor=processor, num_workers=0)
    sample = Samples(data.conversations, processor)[0]
    assert isinstance(sample, Sample)
    size = (sample.plans[0].width, sample.plans[0].height)
    assert size == ((50, 100) if exif else (100, 50))
    assert size_by(processor.tiler, tmp_path / "a.jpg") == size
    answer = vlm.llm.tokenizer.decode(sample.ids[sample.labels != -100])
    found = vlm.template.boxes.decode(answer, [size])[0].box
    assert found == pytest.approx((20, 10, 40, 30), abs=0.2)
