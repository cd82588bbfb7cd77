"""Tiny random models of transformers' own vision-language classes."""

from typing import Any

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

TEXT = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "eos_token_id": 7,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}


@torch.no_grad()
def scattered(model: nn.Module, seed: int = 0) -> Any:
    """Every parameter drawn anew, so that none is zero or one by initialisation."""
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if value.ndim > 1 and "embed" not in name:
            value.normal_(std=value[0].numel() ** -0.5)
        else:
            value.normal_(std=0.5).add_(float(name.endswith("norm.weight")))
    return model.eval()


def llava_next(*, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """LLaVA-NeXT; ``tower`` among ``changes`` changes the vision tower."""
    tower = {"model_type": "clip_vision_model", **TOWER, **changes.pop("tower", {})}
    size = tower["image_size"]
    grids = [
        [size, 2 * size],
        [2 * size, size],
        [2 * size, 2 * size],
        [3 * size, size],
        [size, 3 * size],
    ]
    numbers = {"image_token_index": 110, "image_grid_pinpoints": grids, **changes}
    config = LlavaNextConfig(vision_config=tower, text_config=TEXT | (text or {}), **numbers)
    return scattered(LlavaNextForConditionalGeneration(config))


def internvl(*, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """InternVL; ``tower`` among ``changes`` changes the vision tower."""
    tower = {"norm_type": "rms_norm", "use_qk_norm": True, **TOWER, **changes.pop("tower", {})}
    numbers = {
        "image_token_id": 110,
        "image_seq_length": 4,
        "tie_word_embeddings": False,
        **changes,
    }
    config = InternVLConfig(vision_config=tower, text_config=TEXT | (text or {}), **numbers)
    return scattered(InternVLForConditionalGeneration(config))


LFM2 = {
    "model_type": "lfm2",
    "hidden_size": 48,
    "intermediate_size": 96,
    "block_multiple_of": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "max_position_embeddings": 8192,
    "eos_token_id": 2,
}
NAFLEX = {
    "model_type": "siglip2_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
    "num_patches": 25,
}


def lfm2_vl(*, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """LFM2-VL; ``tower`` among ``changes`` changes the vision tower."""
    numbers = {"image_token_id": 4, "projector_hidden_size": 40, **changes}
    tower = NAFLEX | numbers.pop("tower", {})
    config = Lfm2VlConfig(vision_config=tower, text_config=LFM2 | (text or {}), **numbers)
    return scattered(Lfm2VlForConditionalGeneration(config))
