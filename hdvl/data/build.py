"""From the ``data`` config to a data module."""

from typing import Any

from hdvl.config import build
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.processor import Processor


def build_data(config: Any, vlm: VLM, *, seed: int) -> ChatData:
    """The data module for ``config`` (the ``data`` group), finished with what the model knows."""
    boxes = vlm.template.boxes
    validation = config.validation
    return ChatData(
        train=build(config.train)(boxes=boxes),
        validation=None if validation is None else build(validation)(boxes=boxes),
        processor=Processor.of(vlm, max_length=config.max_length),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_factor,
        shuffle=config.shuffle,
        seed=seed,
    )
