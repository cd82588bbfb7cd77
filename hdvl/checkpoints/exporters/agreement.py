"""Checks that an exported processor gives the same ids and pixels for a conversation as hdvl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hdvl.checkpoints.preprocessing import golden_image
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.protocols import Message

SIZES = ((640, 420), (97, 61))
"""Wide images, because some versions of Pillow resize the axes of tall images in another order than hdvl."""

LIMIT = 2.5 / 255 / 0.2
"""The largest allowed difference of a normalised pixel: two grey levels and some rounding."""


def disagreements(vlm: VLM, folder: Path) -> list[str]:
    """The differences between the processor in ``folder`` and ``vlm`` on a probe conversation."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    talk = probe_conversation()
    sample = Processor.of(vlm)(talk, add_generation_prompt=True)
    expected = read(processor, talk)
    found = []
    ids = expected["input_ids"][0].tolist()
    if ids != sample.ids.tolist():
        found.append(different_ids(processor.tokenizer, ids, sample.ids.tolist()))
    own = vlm.encoder.pixels(sample.pixels, torch.float32)  # type: ignore[attr-defined]
    pixels = tiles_of(expected["pixel_values"], [plan.count for plan in sample.plans])
    if pixels.shape != own.shape:
        found.append(f"tiles differ: {tuple(pixels.shape)} against {tuple(own.shape)}")
    elif (worst := float((pixels - own).abs().max())) > LIMIT:
        found.append(f"pixels differ by {worst:.3f}")
    return found


def probe_conversation() -> list[Message]:
    """A conversation of two questions, each about an image of its own size."""
    images = [Image.fromarray(golden_image(*size)) for size in SIZES]
    return [
        Message("user", "What is this?\nSay: 合计", images=(images[0],)),
        Message("assistant", "A page."),
        Message("user", "And this?", images=(images[1],)),
    ]


def different_ids(tokenizer: Any, ids: Sequence[int], own: Sequence[int]) -> str:
    """A description of the first difference between two sequences of ids."""
    pairs = zip(ids, own, strict=False)
    first = next((place for place, (a, b) in enumerate(pairs) if a != b), -1)
    return (
        f"ids differ: {len(ids)} against {len(own)}, first at {first}: "
        f"{tokenizer.decode(ids[max(0, first - 4) : first + 4])!r}"
    )


def as_parts(talk: Sequence[Message]) -> list[dict[str, Any]]:
    """``talk`` in the form that chat templates of transformers read, with the images before the text."""
    return [
        {
            "role": message.role,
            "content": [
                *({"type": "image", "image": image} for image in message.images),
                {"type": "text", "text": message.text},
            ],
        }
        for message in talk
    ]


def read(processor: Any, talk: Sequence[Message], **options: Any) -> Any:
    """The output of a processor of transformers for ``talk``, with the images before the text."""
    return processor.apply_chat_template(
        as_parts(talk),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        **options,
    )


def tiles_of(pixels: Tensor, counts: Sequence[int]) -> Tensor:
    """The tiles of all images in one tensor, without the padding that some processors add for each image."""
    if pixels.ndim == 5 and len(pixels) == 1:  # one conversation, not one image
        return pixels[0, : sum(counts)]
    if pixels.ndim == 5:
        return torch.cat([part[:count] for part, count in zip(pixels, counts, strict=True)])
    return pixels
