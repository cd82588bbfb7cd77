"""Tiny InternVL and Aya Vision models of transformers, with their processors."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from hdvl.llms import save_tokenizer
from tests.native_models import TEXT, TOWER, internvl, scattered
from tests.templates.toy_tokenizers import byte_level

INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
INTERNVL_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
AYA_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{% if message['role'] == 'user' %}<|USER_TOKEN|>{% elif message['role'] == 'system' %}"
    "<|SYSTEM_TOKEN|>{% else %}<|CHATBOT_TOKEN|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
AYA_TOKENS = [
    *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
    *("<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>", "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>"),
    *("<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"),
    *(f"TILE_{number}" for number in range(1, 4)),  # the rest is spelled in letters
]


@cache
def internvl_tokenizer(folder: Path) -> Any:
    """A byte-level tokenizer that names its image tokens as InternVL's do."""
    save_tokenizer(byte_level(list(INTERNVL_TOKENS.values())), folder)
    return AutoTokenizer.from_pretrained(folder, extra_special_tokens=INTERNVL_TOKENS)


def published_internvl(
    folder: Path,
    *,
    text: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    chat: str = INTERNVL_CHAT,
    dtype: Any = None,
    **changes: Any,
) -> tuple[Any, Any]:
    """(model, processor) of InternVL with random weights, saved into ``folder``."""
    words = internvl_tokenizer(folder.parent / "words")
    told = {"model_type": "qwen2", "vocab_size": len(words), "eos_token_id": words.eos_token_id}
    image_id = words.convert_tokens_to_ids("<IMG_CONTEXT>")
    model = internvl(text={**told, **(text or {})}, image_token_id=image_id, **changes)
    model = model if dtype is None else model.to(dtype)
    vision = model.config.vision_config
    settings = {
        "size": {"height": vision.image_size[0], "width": vision.image_size[0]},
        "max_patches": 6,
        **(images or {}),
    }
    side = settings["size"]["height"] // vision.patch_size[0] * model.config.downsample_ratio
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**settings),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=settings["size"]),
        image_seq_length=int(side) ** 2,
        chat_template=chat,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def published_aya_vision(
    folder: Path,
    *,
    text: Mapping[str, Any] | None = None,
    tower: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
    chat: str = AYA_CHAT,
    dtype: Any = None,
    **changes: Any,
) -> tuple[Any, Any]:
    """(model, processor) of Aya Vision with random weights, saved into ``folder``."""
    words = byte_level(AYA_TOKENS)
    words.bos_token, words.eos_token = "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"
    ends = {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id}
    language = {**TEXT, "model_type": "cohere2", "vocab_size": len(words), "pad_token_id": 0}
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER}
    tower = {**vision, **(tower or {})}
    config = AyaVisionConfig(
        vision_config=tower,
        text_config={**language, **ends, "sliding_window": 16, **(text or {})},
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        **{"alignment_intermediate_size": 40, **changes},
    )
    model = scattered(AyaVisionForConditionalGeneration(config))
    model = model if dtype is None else model.to(dtype)
    size = tower["image_size"]
    made = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(
            **{"size": {"height": size, "width": size}, "max_patches": 6, **(images or {})}
        ),
        tokenizer=words,
        patch_size=tower["patch_size"],
        img_size=size,
        downsample_factor=config.downsample_factor,
        chat_template=chat,
        **(processor or {}),
    )
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made
