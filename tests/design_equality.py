"""Checks that an imported folder gives the ids, pixels, logits and answers of transformers' own classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor

import hdvl
from hdvl.inference.pipeline import Pipeline
from hdvl.loss import targets, token_weights
from hdvl.processor import Batch, collate, pack
from hdvl.protocols import Message
from hdvl.templates.base import IMAGE

_READ = ("input_ids", "attention_mask", "pixel_values")


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise."""
    shape = (height, width, 3)
    return Image.fromarray(
        np.random.default_rng([width, height, seed]).integers(0, 256, shape, np.uint8)
    )


def talk(*sizes: tuple[int, int]) -> list[Message]:
    """A talk of three turns about images of ``sizes``; two of three stand inside of a text."""
    images = [image(*size, seed) for seed, size in enumerate(sizes)]
    text = "See <image> and <image>, 合计?" if len(images) == 3 else "What?"
    return [
        Message("user", "What is\nthis?", images=tuple(images[:1])),
        Message("assistant", "A page."),
        Message("user", text, images=tuple(images[1:])),
    ]


def inputs(processor: Any, talk: Sequence[Message]) -> dict[str, Any]:
    """What ``processor`` makes of ``talk``, ``<image>`` in a text being its next image."""
    found = processor.apply_chat_template(
        [{"role": message.role, "content": _parts(message)} for message in talk],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    return {key: found[key] for key in _READ if key in found}


def _parts(message: Message) -> list[dict[str, Any]]:
    pieces = message.text.split(IMAGE)
    if len(pieces) == 1:
        pieces = [*[""] * len(message.images), message.text]
    parts = list[dict[str, Any]]()
    for number, text in enumerate(pieces):
        parts += [{"type": "text", "text": text}] if text else []
        if number < len(message.images):
            parts.append({"type": "image", "image": message.images[number]})
    return parts


def assert_equal(folder: Path, model: Any, *talks: Sequence[Message]) -> Pipeline:
    """Ids are equal, pixels but for rounding, logits within 1e-4 for each of ``talks``."""
    pipe, processor = hdvl.load(folder), AutoProcessor.from_pretrained(folder)
    for messages in talks:
        ours = pipe.processor(messages, add_generation_prompt=True)
        theirs = inputs(processor, messages)
        assert ours.ids.tolist() == theirs["input_ids"][0].tolist()
        if "pixel_values" in theirs:
            encoder: Any = pipe.model.encoder
            pixels = encoder.pixels(ours.pixels, torch.float32)
            torch.testing.assert_close(pixels, theirs["pixel_values"], atol=1e-6, rtol=0)
        with torch.no_grad():
            wanted = model(**theirs).logits[0]
        torch.testing.assert_close(pipe.logits(messages), wanted, atol=1e-4, rtol=0)
    return pipe


def assert_same_answer(folder: Path, model: Any) -> None:
    """The greedy answer to a question about two images is the same."""
    pipe, processor = hdvl.load(folder), AutoProcessor.from_pretrained(folder)
    images = (image(90, 50), image(30, 70))
    theirs = inputs(processor, [Message("user", "Say.", images=images)])
    whole = model.generate(**theirs, max_new_tokens=12, do_sample=False)
    wanted = processor.decode(whole[0, theirs["input_ids"].shape[1] :], skip_special_tokens=True)
    answer = pipe.chat("Say.", images=list(images), max_new_tokens=12)
    assert answer.text.strip() == wanted.strip()


def losses(pipe: Pipeline, *talks: Sequence[Message]) -> tuple[float, float]:
    """(the mean loss of the answers of ``talks`` in one packed row, the same in padded rows)."""
    samples = [pipe.processor([*messages, Message("assistant", "Yes.")]) for messages in talks]
    return _loss(pipe, pack(samples)), _loss(pipe, collate(samples, pad_id=0))


def _loss(pipe: Pipeline, batch: Batch) -> float:
    weights = token_weights(targets(batch.labels, batch.segments), batch.segments, "token")
    with torch.no_grad():
        output = pipe.model(
            *(batch.input_ids, batch.pixels, batch.plans, None, batch.labels),
            segments=batch.segments,
            weights=weights / weights.sum(),
        )
    return float(output.loss)
