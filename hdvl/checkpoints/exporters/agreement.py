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
    images = [Image.fromarray(golden_image(*size)) for size in SIZES]
    talk = [
        Message("user", "What is this?\nSay: 合计", images=(images[0],)),
        Message("assistant", "A page."),
        Message("user", "And this?", images=(images[1],)),
    ]
    sample = Processor.of(vlm)(talk, add_generation_prompt=True)
    expected = read(processor, talk)
    found = []
    ids = expected["input_ids"][0].tolist()
    if ids != sample.ids.tolist():
        first = next(
            (i for i, (a, b) in enumerate(zip(ids, sample.ids.tolist(), strict=False)) if a != b),
            -1,
        )
        found.append(
            f"ids differ: {len(ids)} against {len(sample.ids)}, first at {first}: "
            f"{processor.tokenizer.decode(ids[max(0, first - 4) : first + 4])!r}"
        )
    own = vlm.encoder.pixels(sample.pixels, torch.float32)  # type: ignore[attr-defined]
    pixels = tiles_of(expected["pixel_values"], [plan.count for plan in sample.plans])
    if pixels.shape != own.shape:
        found.append(f"tiles differ: {tuple(pixels.shape)} against {tuple(own.shape)}")
    elif (worst := float((pixels - own).abs().max())) > LIMIT:
        found.append(f"pixels differ by {worst:.3f}")
    return found


def read(processor: Any, talk: Sequence[Message], **options: Any) -> Any:
    """The output of a processor of transformers for ``talk``, with the images before the text."""
    messages = [
        {
            "role": message.role,
            "content": [
                *({"type": "image", "image": image} for image in message.images),
                {"type": "text", "text": message.text},
            ],
        }
        for message in talk
    ]
    return processor.apply_chat_template(
        messages,
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
