"""The time of each stage of a sample, and the speed of a loader."""

import pytest
from PIL import Image

from hdvl.data.bench import STAGES, samples_per_second, split_time
from hdvl.data.module import ChatData
from hdvl.processor import Processor
from hdvl.protocols import Message
from tests.tiny_model import tiny_vlm


class Squares:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = Image.new("RGB", (64, 32), (index, 0, 0))
        return [Message("user", "?", (image,)), Message("assistant", "!")]


@pytest.fixture(scope="module")
def processor():
    return Processor.of(tiny_vlm())


def test_every_stage_has_its_time(processor):
    split = split_time(Squares(), processor, range(5), pad_id=0)
    assert tuple(split.seconds) == STAGES and min(split.seconds.values()) >= 0
    assert sum(split.seconds.values()) > 0
    assert split.samples == 5 and split.tiles == 5 * 3
    samples = [processor(Squares()[i]) for i in range(5)]
    assert split.tokens == sum(len(sample.ids) for sample in samples)


def test_the_rate_of_a_loader(processor):
    data = ChatData(train=Squares(), processor=processor, batch_size=2, num_workers=0)
    assert samples_per_second(data.train_dataloader(), 3) > 0
    finite = ChatData(
        train=Squares(), validation=Squares(), processor=processor, batch_size=2, num_workers=0
    )
    with pytest.raises(ValueError, match="must have 12 batches, got 4"):
        samples_per_second(finite.val_dataloader(), 10)
