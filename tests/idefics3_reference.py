"""Tiny Idefics3 and SmolVLM models of transformers, their processors, and processed inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from hdvl.protocols import Message
from hdvl.templates.base import IMAGE
from tests.native_models import TEXT, TOWER, scattered
from tests.templates.toy_tokenizers import byte_level

ROWS = 800
GRID = [f"<row_{row + 1}_col_{col + 1}>" for row in range(4) for col in range(4)]
SPECIAL = ["<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", *GRID]
CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tokenizer(special: Sequence[str] = SPECIAL) -> Any:
    """A byte-level tokenizer with the tokens of the layout, whose first token is ``<|im_start|>``."""
    made = byte_level(special)
    made.bos_token, made.eos_token = "<|im_start|>", "<end_of_utterance>"
    return made


def published(
    kind: str,
    folder: Path,
    *,
    tower: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    words: Any = None,
    chat: str = CHAT,
    dtype: Any = None,
    **numbers: Any,
) -> tuple[Any, Any]:
    """(model, processor) of ``kind`` idefics3 or smolvlm with random weights, saved into ``folder``."""
    words = words or tokenizer()
    vision = {**TOWER, **(tower or {})}
    name = getattr(words, "image_token", "<image>")
    told = {"vocab_size": ROWS, "eos_token_id": words.eos_token_id, "pad_token_id": 0}
    options = {"scale_factor": 2, **numbers, "image_token_id": words.convert_tokens_to_ids(name)}
    language = {**TEXT, **told, **(text or {})}
    classes: tuple[Any, Any] = (
        (Idefics3Config, Idefics3ForConditionalGeneration)
        if kind == "idefics3"
        else (SmolVLMConfig, SmolVLMForConditionalGeneration)
    )
    model = scattered(classes[1](classes[0](text_config=language, vision_config=vision, **options)))
    model = model if dtype is None else model.to(dtype)
    size = vision["image_size"]
    settings = {
        "size": {"longest_edge": 4 * size},
        "max_image_size": {"longest_edge": size},
        **(images or {}),
    }
    side = settings["max_image_size"]["longest_edge"] // vision["patch_size"]
    length = (side // options["scale_factor"]) ** 2
    if kind == "idefics3":
        made: Any = Idefics3Processor(
            Idefics3ImageProcessor(**settings), words, image_seq_len=length, chat_template=chat
        )
    else:
        made = SmolVLMProcessor(
            *(SmolVLMImageProcessor(**settings), words, SmolVLMVideoProcessor()),
            image_seq_len=length,
            chat_template=chat,
        )
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    # Read back: a model that was cast in memory has rotary frequencies of the smaller type, too.
    return (model if dtype is None else type(model).from_pretrained(folder).eval()), made


def inputs(processor: Any, talk: Sequence[Message], **options: Any) -> Any:
    """What the processor makes of ``talk``, ``<image>`` in a text being its next image."""
    return processor.apply_chat_template(
        [{"role": message.role, "content": _parts(message)} for message in talk],
        **{"tokenize": True, "return_dict": True, "return_tensors": "pt"},
        **{"add_generation_prompt": True, **options},
    )


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
