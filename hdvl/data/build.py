"""From the ``data`` config to a data module."""

from collections.abc import Mapping
from typing import Any

from hdvl.config import build
from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.model import VLM
from hdvl.processor import Processor

KEYS = (
    *("train", "validation", "max_length", "batch_size", "num_workers", "prefetch_factor"),
    *("shuffle", "max_bad", "workers", "packing"),
)
"""What the ``data`` config may have."""


def build_data(config: Mapping[str, Any], vlm: VLM, *, seed: int) -> ChatData:
    """The data module for the plain ``config`` (the ``data`` group), finished with what the model knows.

    Raises:
        ValueError: a key of ``config`` is unknown.
    """
    for key in config:
        if key not in KEYS:
            raise ValueError(f"data must have keys of {', '.join(KEYS)}, got {key}")
    boxes = vlm.template.boxes
    validation, packing = config["validation"], config.get("packing")
    return ChatData(
        train=build(config["train"])(boxes=boxes),
        validation=None if validation is None else build(validation)(boxes=boxes),
        processor=Processor.of(vlm, max_length=config["max_length"]),
        batch_size=config["batch_size"],
        num_workers=config["num_workers"],
        prefetch_factor=config["prefetch_factor"],
        shuffle=config["shuffle"],
        max_bad=config.get("max_bad", 0.001),
        workers=config.get("workers", "processes"),
        packing=None if packing is None else Budget(**packing),
        seed=seed,
    )
