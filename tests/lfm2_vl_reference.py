"""A tiny LFM2-VL of transformers' own classes: model, image processor, tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

from hdvl.llms import build_tokenizer
from hdvl.protocols import Message

SPECIAL = (
    *("<|pad|>", "<|startoftext|>", "<|im_end|>", "<|im_start|>", "<image>"),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
    *(f"<|img_row_{row}_col_{col}|>" for row in range(1, 7) for col in range(1, 7)),
)
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{%- if part.type == 'image' %}{{ '<image>' }}{% else %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {
    "encoder_patch_size": 4,
    "tile_size": 32,
    "min_image_tokens": 4,
    "max_image_tokens": 16,
    "max_tiles": 6,
}


def processor(*, names: dict[str, str] | None = None, **changes: Any) -> Lfm2VlProcessor:
    """Its processor; ``names`` are what the tokenizer calls the tokens around an image."""
    special = [*SPECIAL, *(names or {}).values()]
    tokenizer = build_tokenizer(
        vocab_size=390, special_tokens=special, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"bos_token": "<|startoftext|>"})
    if names:
        tokenizer._set_model_specific_special_tokens(names)
    return Lfm2VlProcessor(
        Lfm2VlImageProcessor(**SIZES | changes), tokenizer, chat_template=TEMPLATE
    )


def saved(model: Any, reference: Any, folder: Path) -> Path:
    """Both in one folder, as they are published."""
    model.save_pretrained(folder)
    reference.save_pretrained(folder)
    return folder


def photo(width: int, height: int) -> Image.Image:
    draw = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def talk(*sizes: tuple[int, int], answer: str | None = None) -> list[Message]:
    """A question about images of these sizes, which stand within its text."""
    text = "See " + "<image>" * len(sizes) + "What is it?"
    asked = Message("user", text, images=tuple(photo(*size) for size in sizes))
    return [asked] if answer is None else [asked, Message("assistant", answer)]


def inputs(
    reference: Any, conversations: Sequence[Sequence[Message]], *, ask: bool = True
) -> dict[str, Tensor]:
    """What the reference processor makes of a batch of conversations, padded on the right."""
    reference.tokenizer.padding_side = "right"
    made = reference.apply_chat_template(
        [[_turn(message) for message in messages] for messages in conversations],
        add_generation_prompt=ask,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return dict(made)


def _turn(message: Message) -> dict[str, Any]:
    before, *after = message.text.split("<image>")
    parts: list[dict[str, Any]] = [{"type": "text", "text": before}]
    for image, text in zip(message.images, after, strict=True):
        parts += [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return {"role": message.role, "content": parts}


@torch.no_grad()
def logits(model: Any, reference: Any, messages: Sequence[Message]) -> Tensor:
    """The reference's logits of a prompt."""
    output: Tensor = model(**inputs(reference, [messages])).logits[0]
    return output
