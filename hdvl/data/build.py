"""Builds the data module from the ``data`` config."""

from collections.abc import Mapping
from typing import Any

from hdvl.config import build
from hdvl.data.conversations import Conversations
from hdvl.data.holdout import hold_out
from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.inputs import check_data
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.protocols import BoxCodec

KEYS = (
    *("train", "validation", "max_length", "batch_size", "num_workers", "prefetch_factor"),
    *("shuffle", "max_bad", "workers", "packing", "holdout", "holdout_by"),
)
"""The keys of the ``data`` config."""
_PLACES = ("path", "shards", "local")
"""Arguments of readers that locate their rows."""


def build_conversations(
    config: Mapping[str, Any], *, boxes: BoxCodec | None
) -> tuple[Conversations, Conversations | None]:
    """The training data and the validation data (or None) of the plain ``config``, the ``data`` group.

    Raises:
        ValueError: a file or a folder of images does not exist; validation data are given twice, as data
            of their own and as ``holdout``; or the rows cannot be split (see
            :func:`hdvl.data.holdout.hold_out`).
    """
    check_data(config)
    node, share = validation_node(config), config.get("holdout")
    train: Conversations = build(config["train"])(boxes=boxes)
    if share is None:
        return train, None if node is None else build(node)(boxes=boxes)
    if node is not None:
        raise ValueError(
            "data.holdout and data.validation must not both be given: holdout validates on a part of "
            "data.train, validation on rows of its own; leave one of them null"
        )
    return hold_out(train, share, by=config.get("holdout_by"))


def validation_node(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The node of the validation data; None if it is null or locates no rows."""
    node: dict[str, Any] | None = config["validation"]
    places = [] if node is None else [node[name] for name in _PLACES if name in node]
    return None if node is None or (places and all(place is None for place in places)) else node


def build_data(config: Mapping[str, Any], vlm: VLM, *, seed: int) -> ChatData:
    """The data module for the plain ``config`` (the ``data`` group) and the preprocessing of the model.

    Raises:
        ValueError: a key of ``config`` is unknown.
    """
    for key in config:
        if key not in KEYS:
            raise ValueError(f"data must have keys of {', '.join(KEYS)}, got {key}")
    train, validation = build_conversations(config, boxes=vlm.template.boxes)
    packing = config.get("packing")
    return ChatData(
        train=train,
        validation=validation,
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
