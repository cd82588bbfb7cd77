"""Models and prompts for ``bench_inference.py``: random models in transformers' layouts, and questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from hdvl.model import VLM
from hdvl.protocols import TilePlan

SIDE, WORDS = 224, 32
COMMON = {
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Size:
    """Numbers of a random model: the configurations of its text and of its vision side."""

    text: dict[str, Any]
    vision: dict[str, Any]

    @property
    def slot(self) -> int:
        """The id of image slots, the last one."""
        return int(self.text["vocab_size"]) - 1


SIZES = {
    "small": Size(
        text={
            "hidden_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 704,
            "vocab_size": 4096,
            **COMMON,
        },
        vision={
            "hidden_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "intermediate_size": 768,
        },
    ),
    "100M": Size(
        text={
            "hidden_size": 640,
            "num_hidden_layers": 10,
            "num_attention_heads": 10,
            "num_key_value_heads": 2,
            "intermediate_size": 1728,
            "vocab_size": 32000,
            **COMMON,
        },
        vision={
            "hidden_size": 320,
            "num_hidden_layers": 12,
            "num_attention_heads": 5,
            "intermediate_size": 1280,
        },
    ),
}


@dataclass(frozen=True)
class Question:
    """The same prompt for both sides: random words around the slots of one image.

    ``pixels`` and ``plans`` are hdvl's, ``peer`` what transformers takes in their place.
    """

    ids: Tensor
    pixels: Tensor
    plans: Sequence[TilePlan]
    peer: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """A model of transformers: its class, a random one, the image shown and how it is handed over."""

    kind: Callable[[], Any]
    model: Callable[[Size], nn.Module]
    image: tuple[int, int]
    peer: Callable[[Tensor, tuple[int, int]], dict[str, Any]]

    def write(self, folder: Path, size: Size) -> None:
        """Write the model folder with transformers."""
        torch.manual_seed(0)
        scattered(self.model(size)).save_pretrained(folder)


@torch.no_grad()
def scattered(model: nn.Module) -> Any:
    """Initialise weights so that activations keep their scale and logits differ between tokens."""
    for name, value in model.named_parameters():
        if value.ndim > 1 and "embed" not in name:
            value.normal_(std=value[0].numel() ** -0.5)
        elif value.ndim > 1:
            value.normal_(std=2.0)
    return model.eval()


def question(
    vlm: VLM, layout: Reference, image: tuple[int, int] | None = None, seed: int = 0
) -> Question:
    """An image of noise and random words, 4 before it and the others after it."""
    width, height = image = image or layout.image
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    tiles = vlm.tiler(Image.fromarray(noise.numpy()))
    words = torch.randint(1, vlm.image_token_id - 50, (WORDS,), generator=generator)
    slots = torch.full((vlm.merger.token_count(tiles.plan),), vlm.image_token_id)
    normalised = vlm.encoder.pixels(tiles.pixels, torch.float32)
    return Question(
        ids=torch.cat([words[:4], slots, words[4:]])[None],
        pixels=tiles.pixels,
        plans=[tiles.plan],
        peer=layout.peer(normalised, image),
    )


def _internvl_class() -> Any:
    from transformers import InternVLForConditionalGeneration

    return InternVLForConditionalGeneration


def _internvl(size: Size) -> nn.Module:
    from transformers import InternVLConfig

    vision = {
        **size.vision,
        "image_size": [SIDE, SIDE],
        "patch_size": [14, 14],
        "layer_norm_eps": 1e-6,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **size.text},
        image_token_id=size.slot,
        image_seq_length=64,
        tie_word_embeddings=False,
    )
    model: nn.Module = _internvl_class()(config)
    return model


def _llava_next_class() -> Any:
    from transformers import LlavaNextForConditionalGeneration

    return LlavaNextForConditionalGeneration


def _llava_next(size: Size) -> nn.Module:
    from transformers import LlavaNextConfig

    vision = {
        **size.vision,
        "model_type": "clip_vision_model",
        "image_size": SIDE,
        "patch_size": 14,
    }
    config = LlavaNextConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **size.text},
        image_token_index=size.slot,
        image_grid_pinpoints=[[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
        tie_word_embeddings=False,
    )
    model: nn.Module = _llava_next_class()(config)
    return model


def _stacked(pixels: Tensor, image: tuple[int, int]) -> dict[str, Any]:
    return {"pixel_values": pixels}


def _by_image(pixels: Tensor, image: tuple[int, int]) -> dict[str, Any]:
    return {"pixel_values": pixels[None], "image_sizes": torch.tensor([image[::-1]])}


LAYOUTS = {
    "internvl": Reference(_internvl_class, _internvl, (672, 448), _stacked),
    "llava_next": Reference(_llava_next_class, _llava_next, (448, 224), _by_image),
}
