"""Tiny random LLaVA-1.5 and LLaVA-OneVision folders, written by transformers' own model and processor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import processors
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    SiglipImageProcessor,
)

from hdvl.protocols import Message
from hdvl.templates.base import IMAGE
from tests.native_models import TEXT, TOWER, scattered
from tests.templates.toy_tokenizers import KINDS

VICUNA = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}{% if m.role != 'assistant' %}"
    "{{ part.text + ' ' }}{% else %}{% generation %}{{ part.text + ' ' }}{% endgeneration %}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
    "{% for part in m.content if part.type == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ '\n' + part.text }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IMAGES = {"clip": CLIPImageProcessor, "siglip": SiglipImageProcessor, "llava": LlavaImageProcessor}


def tokenizer(kind: str, *, start: bool) -> Any:
    """A tokenizer with an image token; with ``start`` each text begins with ``<s>``, as Llama's does."""
    found = KINDS[kind](["<s>", "</s>", "<image>", "<video>"])
    found.bos_token, found.eos_token, found.pad_token = "<s>", "</s>", "</s>"
    if start:
        added = [("<s>", found.convert_tokens_to_ids("<s>"))]
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=added)
        found.backend_tokenizer.post_processor = template
    return found


def _numbers(
    text: Any, tower: dict[str, Any], found: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
    side = {"image_size": 28, **tower}["image_size"]
    return {
        "vision_config": {**TOWER, "model_type": "clip_vision_model", "image_size": side, **tower},
        "text_config": {**TEXT, "vocab_size": len(text) + 20, "eos_token_id": text.eos_token_id},
        "image_token_index": text.convert_tokens_to_ids("<image>"),
        **found,
        **changes,
    }


def llava(
    folder: Path,
    *,
    text: dict[str, Any] | None = None,
    tower: dict[str, Any] | None = None,
    images: dict[str, Any] | None = None,
    processor: str = "llava",
    words: str = "metaspace",
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[Any, Any]:
    """(model, processor) of LLaVA-1.5, saved into ``folder``; ``processor``: the kind for images."""
    spoken, tower = tokenizer(words, start=True), tower or {}
    numbers = _numbers(spoken, tower, {}, changes)
    numbers["text_config"] |= text or {}
    model = scattered(LlavaForConditionalGeneration(LlavaConfig(**numbers))).to(dtype)
    side = numbers["vision_config"]["image_size"]
    square = {"height": side, "width": side}
    usual = {"size": square} if processor == "siglip" else {"size": {"shortest_edge": side}}
    usual |= {} if processor == "siglip" else {"crop_size": square}
    clip = numbers["vision_config"]["model_type"] == "clip_vision_model"
    own = LlavaProcessor(
        IMAGES[processor](**usual | (images or {})),
        spoken,
        patch_size=numbers["vision_config"]["patch_size"],
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=int(clip),
        chat_template=VICUNA,
    )
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return model, own


def onevision(
    folder: Path,
    *,
    text: dict[str, Any] | None = None,
    tower: dict[str, Any] | None = None,
    images: dict[str, Any] | None = None,
    grids: Sequence[tuple[int, int]] = tuple((r, c) for r in range(1, 4) for c in range(1, 4)),
    most: int = 2,
    words: str = "byte_level",
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[Any, Any]:
    """(model, processor) of LLaVA-OneVision, saved into ``folder``; ``most`` is N of ``anyres_max_N``."""
    spoken = tokenizer(words, start=False)
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False, **(tower or {})}
    side, aspect = {"image_size": 28, **tower}["image_size"], f"anyres_max_{most}"
    pinpoints = [[rows * side, cols * side] for rows, cols in grids]
    found = {
        "image_grid_pinpoints": pinpoints,
        "vision_aspect_ratio": aspect,
        "video_token_index": spoken.convert_tokens_to_ids("<video>"),
    }
    numbers = _numbers(spoken, tower, found, changes)
    numbers["text_config"] |= {"model_type": "qwen2", "bos_token_id": None, **(text or {})}
    model = scattered(LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**numbers))).to(
        dtype
    )
    square, vision = {"height": side, "width": side}, model.config.vision_config
    own = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(
            size=square,
            image_grid_pinpoints=pinpoints,
            **{"image_mean": [0.5] * 3, **(images or {})},
        ),
        spoken,
        LlavaOnevisionVideoProcessor(size=square),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2
        + (vision.model_type == "clip_vision_model"),
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        chat_template=ONEVISION,
        vision_aspect_ratio=aspect,
    )
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return model, own


KINDS_OF_MODEL = {"llava": llava, "llava_onevision": onevision}


def inputs(processor: Any, talk: Sequence[Message]) -> dict[str, Any]:
    """What ``processor`` makes of ``talk``, images in front of the text of their message."""
    parts = [
        {
            "role": message.role,
            "content": [
                *({"type": "image", "image": image} for image in message.images),
                {"type": "text", "text": message.text.replace(IMAGE, "")},
            ],
        }
        for message in talk
    ]
    found = processor.apply_chat_template(
        parts, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    known = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "batch_num_images")
    return {key: found[key] for key in known if key in found}


def views(theirs: dict[str, Any], counts: Sequence[int]) -> torch.Tensor:
    """The views of all images behind each other, in the processor's pixels."""
    pixels = theirs["pixel_values"]
    if pixels.ndim == 4:
        return pixels
    return torch.cat([part[:count] for part, count in zip(pixels, counts, strict=True)])


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of random colours."""
    generator = torch.Generator().manual_seed(seed * 7919 + width * 101 + height)
    values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def talk(*sizes: tuple[int, int]) -> list[Message]:
    """A talk of three turns about images of ``sizes``, the first of them in the first turn."""
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    return [
        Message("user", "What is\nthis?", images=tuple(images[:1])),
        Message("assistant", "A page."),
        Message("user", "And 合计?", images=tuple(images[1:])),
    ]
