"""LLaVA and LLaVA-NeXT of transformers: a CLIP or SigLIP tower and a perceptron on each patch."""

from functools import partial
from typing import Any

import torch

from hdvl.bridges import MLP
from hdvl.checkpoints.exporters.target import (
    TransformersTarget,
    differing,
    language_model,
    reading_notes,
)
from hdvl.checkpoints.importers.mapping import From
from hdvl.encoders import TransformersEncoder
from hdvl.mergers import Concat, Spatial
from hdvl.model import VLM
from hdvl.tilers import AnyRes, Squash

# Type of the vision tower: which of its tokens are features, and how many others it has.
_TOWERS = {"clip_vision_model": ("default", 1), "siglip_vision_model": ("full", 0)}
_NAMES = (
    (r"model\.vision_tower\.(.*)", r"encoder.model.\1"),
    (r"model\.multi_modal_projector\.linear_1\.(.*)", r"bridge.mlp.0.\1"),
    (r"model\.multi_modal_projector\.linear_2\.(.*)", r"bridge.mlp.2.\1"),
    (r"model\.language_model\.(.*)", r"llm.model.model.\1"),
    (r"model\.image_newline", "merger.newline"),
    (r"lm_head\.(.*)", r"llm.model.lm_head.\1"),
)


def is_like(vlm: VLM) -> bool:
    """Whether the encoder and the bridge are LLaVA's."""
    return isinstance(vlm.encoder, TransformersEncoder) and isinstance(vlm.bridge, MLP)


def target(vlm: VLM) -> tuple[TransformersTarget | None, list[str]]:
    """The layout, or the reasons why no LLaVA of transformers can be this model."""
    encoder, tiler = vlm.encoder, vlm.tiler
    assert isinstance(encoder, TransformersEncoder)
    text, reasons = language_model(vlm)
    vision = encoder.model.config
    reasons += _bridge_reasons(vlm)
    if vision.model_type not in _TOWERS:
        reasons.append(f"encoder.name={vision.model_type} (only {', '.join(_TOWERS)})")
    elif vision.image_size != encoder.tile_size:
        reasons.append(
            f"encoder.tile_size={encoder.tile_size} (only its image_size={vision.image_size}: "
            "transformers does not stretch the positions)"
        )
    reasons += differing(
        {
            "encoder.final_norm": (encoder.final_norm, False),
            "encoder.feature_norm": (type(encoder.feature_norm), torch.nn.Identity),
        }
    )
    next_ = isinstance(tiler, AnyRes)
    reasons += _anyres_reasons(vlm) if next_ else _one_view_reasons(vlm)
    if reasons:
        return None, reasons
    strategy, _ = _TOWERS[vision.model_type]
    numbers = {key: value for key, value in vision.to_dict().items() if key not in ("dtype",)}
    config = {
        "model_type": "llava_next" if next_ else "llava",
        "vision_config": numbers | {"vision_use_head": False},
        "text_config": text,
        "image_token_index": vlm.image_token_id,
        "image_seq_length": encoder.grid[0] * encoder.grid[1],
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": strategy,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    if next_:
        config["image_grid_pinpoints"] = _pinpoints(vlm)
    width = vision.hidden_size
    return TransformersTarget(
        config=config,
        names=_NAMES,
        # Behind the features: what it says does not matter, but the class has it.
        make={
            "model.vision_tower.post_layernorm.weight": From((), partial(torch.ones, width)),
            "model.vision_tower.post_layernorm.bias": From((), partial(torch.zeros, width)),
        },
        processor=partial(_processor, vlm),
        notes=reading_notes(vlm),
    ), []


def _bridge_reasons(vlm: VLM) -> list[str]:
    bridge: Any = vlm.bridge
    layers = [repr(layer) for layer in bridge.mlp]
    return differing(
        {
            "bridge.norm": (type(bridge.norm), torch.nn.Identity),
            "bridge.depth": (sum(layer.startswith("Linear") for layer in layers), 2),
            "bridge.activation": (layers[1] if len(layers) > 1 else None, repr(torch.nn.GELU())),
            "bridge.bias": (bridge.mlp[0].bias is not None, True),
            "bridge.hidden": (bridge.mlp[0].out_features, vlm.llm.width),
        }
    )


def _anyres_reasons(vlm: VLM) -> list[str]:
    tiler, merger = vlm.tiler, vlm.merger
    assert isinstance(tiler, AnyRes)
    reasons = differing(
        {"tiler.thumbnail": (tiler.thumbnail, "first"), "merger": (type(merger), Spatial)}
    )
    if isinstance(merger, Spatial):
        reasons += differing(
            {
                "merger.newline": (merger.newline is not None, True),
                "merger.positions": (merger.positions is not None, False),
            }
        )
    return reasons


def _one_view_reasons(vlm: VLM) -> list[str]:
    if not isinstance(vlm.tiler, Squash):
        return [f"tiler is {type(vlm.tiler).__name__} (only AnyRes and Squash)"]
    return differing({"merger": (type(vlm.merger), Concat)})


def _pinpoints(vlm: VLM) -> list[list[int]]:
    """(height, width) of each canvas that the tiler may choose."""
    tiler: Any = vlm.tiler
    size = tiler.tile_size
    return [
        [rows * size, cols * size] for rows, cols in tiler.grids if rows * cols <= tiler.max_tiles
    ]


def _processor(vlm: VLM, tokenizer: Any, chat_template: str) -> Any:
    encoder: Any = vlm.encoder
    strategy, extra = _TOWERS[encoder.model.config.model_type]
    kind, images = _images(vlm)
    return kind(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=encoder.patch,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=extra,
        image_token=vlm.template.image_token,
        chat_template=chat_template,
    )


def _images(vlm: VLM) -> tuple[Any, Any]:
    """The class of the processor, and its image processor."""
    from transformers import LlavaNextProcessor, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    size = vlm.tiler.tile_size
    square = {"height": size, "width": size}
    settings = {
        "size": square,
        "crop_size": square,
        "image_mean": list(vlm.encoder.mean),
        "image_std": list(vlm.encoder.std),
    }
    if isinstance(vlm.tiler, AnyRes):
        canvases = _pinpoints(vlm)
        images = LlavaNextImageProcessorPil(image_grid_pinpoints=canvases, **settings)
        return LlavaNextProcessor, images
    return LlavaProcessor, CLIPImageProcessorPil(do_center_crop=False, **settings)
