"""A run of five steps with two validations, and a batch of a tiny model."""

from dataclasses import replace
from typing import Any

from PIL import Image

from hdvl.data.module import ChatData, Samples
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, Sample
from hdvl.protocols import Message, SharedPrefix
from tests.training.runs import Colours, Feeder


class Watched(Feeder):
    """The colours are validated on, too."""

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        data = super().__call__(config, vlm, seed=seed)
        data.validation = Colours()
        return data


def two_samples(vlm: VLM) -> list[Sample]:
    """One with two images of several tiles, and a shorter one without any."""
    big, small = Image.new("RGB", (70, 60), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))
    talk = [
        Message("user", "<image>First or <image>second?", (big, small)),
        Message("assistant", "Née second."),
        Message("user", "Sure?"),
        Message("assistant", "Yes."),
    ]
    source = [talk, [Message("user", "Hi"), Message("assistant", "Hello.")]]
    samples = Samples(source, Processor.of(vlm))
    return [sample for sample in map(samples.__getitem__, (0, 1)) if isinstance(sample, Sample)]


def shared_sample(vlm: VLM) -> Sample:
    """Two conversations about one image."""
    image = Image.new("RGB", (70, 60), (255, 0, 0))
    talks = [
        [Message("user", question, (image,)), Message("assistant", answer)]
        for question, answer in (("What?", "Red."), ("Where?", "All over."))
    ]
    return replace(Processor.of(vlm)(SharedPrefix(tuple(talks))), row=2)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same."""
    tensors = ("input_ids", "labels", "attention_mask", "pixels")
    rest = ("plans", "segments", "rows")
    return all(getattr(one, name).equal(getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in rest
    )
