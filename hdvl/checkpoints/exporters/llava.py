"""Exports to LLaVA, LLaVA-NeXT and LLaVA-OneVision of transformers: CLIP or SigLIP, an MLP on each patch."""

from functools import partial
from typing import Any

import torch

from hdvl.bridges import MLP
from hdvl.bridges.perceptron import TORCH_ACTIVATIONS, activation_class
from hdvl.checkpoints.exporters.target import (
    TransformersTarget,
    differing,
    language_model,
    reading_notes,
)
from hdvl.checkpoints.exporters.tokenizer import unused_special_token
from hdvl.checkpoints.importers.image_settings import FILTERS
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.encoders import TransformersEncoder
from hdvl.mergers import Concat, Spatial
from hdvl.model import VLM
from hdvl.tilers import AnyRes, Squash

# Type of the vision tower -> vision_feature_select_strategy, and the number of tokens that are no patches.
_TOWERS = {"clip_vision_model": ("default", 1), "siglip_vision_model": ("full", 0)}
_NAMES = (
    (r"model\.vision_tower\.(.*)", r"encoder.model.\1"),
    (r"model\.multi_modal_projector\.linear_1\.(.*)", r"bridge.mlp.0.\1"),
    (r"model\.multi_modal_projector\.linear_2\.(.*)", r"bridge.mlp.2.\1"),
    (r"model\.language_model\.(.*)", r"llm.model.model.\1"),
    (r"model\.image_newline", "merger.newline"),
    (r"lm_head\.(.*)", r"llm.model.lm_head.\1"),
)
# Published folders have this level; vLLM reads no other names.
_STORED = ((r"^model\.vision_tower\.", "model.vision_tower.vision_model."),)
_SEVERAL = (
    "several images: transformers gives one view of each, as hdvl does, but vLLM would cut each into tiles; "
    "start vLLM with --limit-mm-per-prompt '{\"image\": 1}', which refuses them, or export with format=vllm"
)


def is_like(vlm: VLM) -> bool:
    """Whether the encoder and the bridge are LLaVA's."""
    return isinstance(vlm.encoder, TransformersEncoder) and isinstance(vlm.bridge, MLP)


def target(vlm: VLM) -> tuple[TransformersTarget | None, list[str]]:
    """The description for transformers, or the reasons why no LLaVA of it can represent this model."""
    encoder = vlm.encoder
    assert isinstance(encoder, TransformersEncoder)
    text, reasons = language_model(vlm)
    vision = encoder.model.config
    reasons += _bridge_reasons(vlm)
    if vision.model_type not in _TOWERS:
        reasons.append(f"encoder.name={vision.model_type} (only {', '.join(_TOWERS)})")
    elif vision.image_size != encoder.tile_size:
        reasons.append(
            f"encoder.tile_size={encoder.tile_size} (only its image_size={vision.image_size}: "
            "transformers does not interpolate the positions)"
        )
    reasons += differing(
        {
            "encoder.final_norm": (encoder.final_norm, False),
            "encoder.feature_norm": (type(encoder.feature_norm), torch.nn.Identity),
        }
    )
    kind = _kind(vlm)
    reasons += _one_view_reasons(vlm) if kind == "llava" else _anyres_reasons(vlm, kind)
    if reasons:
        return None, reasons
    strategy, _ = _TOWERS[vision.model_type]
    numbers = {key: value for key, value in vision.to_dict().items() if key not in ("dtype",)}
    config = {
        "model_type": kind,
        "vision_config": numbers | {"vision_use_head": False},
        "text_config": text,
        "image_token_index": vlm.image_token_id,
        "image_seq_length": encoder.grid[0] * encoder.grid[1],
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": strategy,
        "projector_hidden_act": _activation(vlm),
        "multimodal_projector_bias": vlm.bridge.mlp[0].bias is not None,  # type: ignore[attr-defined]
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    if kind != "llava":
        config["image_grid_pinpoints"] = _pinpoints(vlm)
    if kind == "llava_onevision":
        merger: Any = vlm.merger
        config["vision_aspect_ratio"] = f"anyres_max_{merger.shrink_above}"
        names = vlm.llm.tokenizer
        config["video_token_index"] = names.convert_tokens_to_ids(unused_special_token(vlm))
    width = vision.hidden_size
    return TransformersTarget(
        config=config,
        names=_NAMES,
        # The class has this norm, whose output is not used.
        make={
            "model.vision_tower.post_layernorm.weight": TensorSource(
                (), partial(torch.ones, width)
            ),
            "model.vision_tower.post_layernorm.bias": TensorSource((), partial(torch.zeros, width)),
        },
        stored=_STORED,
        processor=partial(_processor, vlm),
        notes=(*reading_notes(vlm), *([_SEVERAL] if kind == "llava_onevision" else [])),
    ), []


def _bridge_reasons(vlm: VLM) -> list[str]:
    bridge: Any = vlm.bridge
    layers = [repr(layer) for layer in bridge.mlp]
    return differing(
        {
            "bridge.norm": (type(bridge.norm), torch.nn.Identity),
            "bridge.depth": (sum(layer.startswith("Linear") for layer in layers), 2),
            "bridge.activation is one of transformers'": (_activation(vlm) is not None, True),
            "bridge.hidden": (bridge.mlp[0].out_features, vlm.llm.width),
        }
    )


def _kind(vlm: VLM) -> str:
    """The ``model_type`` of the design with this tiler and this merger."""
    tiler, merger = vlm.tiler, vlm.merger
    if not isinstance(tiler, AnyRes):
        return "llava"
    shrinks = isinstance(merger, Spatial) and merger.shrink_above is not None
    return "llava_onevision" if shrinks or tiler.several_fit is not None else "llava_next"


def _activation(vlm: VLM) -> str | None:
    """The name in transformers of the bridge's activation; None if transformers does not have it."""
    bridge: Any = vlm.bridge
    if len(bridge.mlp) < 2:
        return None
    from transformers.activations import ACT2FN

    names = dict.fromkeys((*TORCH_ACTIVATIONS, *ACT2FN))
    found = repr(bridge.mlp[1])
    return next((name for name in names if repr(activation_class(name)()) == found), None)


def _anyres_reasons(vlm: VLM, kind: str) -> list[str]:
    tiler, merger = vlm.tiler, vlm.merger
    assert isinstance(tiler, AnyRes)
    if kind == "llava_onevision":
        several = ("pad_image", _mean_colour(vlm))
        given = (tiler.several_fit, tiler.several_padding)
        if given != several:
            return [f"tiler.several_fit and tiler.several_padding are {given} (only {several})"]
        if isinstance(merger, Spatial):
            pair = (merger.shrink_above is not None, merger.single_newline)
            if pair != (True, "image"):
                return [
                    f"merger.shrink_above={merger.shrink_above} and merger.single_newline="
                    f"{merger.single_newline} (only a number and image)"
                ]
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
    reasons = differing(
        {"merger": (type(vlm.merger), Concat), "tiler.grid": (vlm.tiler.grid, (1, 1))}
    )
    if vlm.tiler.fit == "pad":
        reasons.append("tiler.fit=pad (only squash, crop and pad_image)")
    if vlm.tiler.fit == "pad_image":
        reasons += differing({"tiler.padding": (vlm.tiler.padding, _mean_colour(vlm))})
    return reasons


def _mean_colour(vlm: VLM) -> tuple[int, ...]:
    """The colour with which transformers pads images: the mean of the encoder."""
    return tuple(int(level * 255) for level in vlm.encoder.mean)


def _pinpoints(vlm: VLM) -> list[list[int]]:
    """(height, width) of each canvas that the tiler may choose."""
    tiler: Any = vlm.tiler
    size = tiler.tile_size
    return [
        [rows * size, cols * size] for rows, cols in tiler.grids if rows * cols <= tiler.max_tiles
    ]


def _processor(vlm: VLM, tokenizer: Any, chat_template: str) -> Any:
    from transformers import (
        LlavaNextProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        LlavaProcessor,
    )

    encoder: Any = vlm.encoder
    strategy, extra = _TOWERS[encoder.model.config.model_type]
    shared = {
        "tokenizer": tokenizer,
        "vision_feature_select_strategy": strategy,
        "image_token": vlm.template.image_token,
        "chat_template": chat_template,
    }
    if _kind(vlm) == "llava_onevision":
        merger: Any = vlm.merger
        return LlavaOnevisionProcessor(
            image_processor=_images(vlm),
            video_processor=LlavaOnevisionVideoProcessor(size=_square(vlm)),
            num_image_tokens=encoder.grid[0] * encoder.grid[1] + extra,
            video_token=unused_special_token(vlm),
            vision_aspect_ratio=f"anyres_max_{merger.shrink_above}",
            **shared,
        )
    kind = LlavaNextProcessor if isinstance(vlm.tiler, AnyRes) else LlavaProcessor
    return kind(
        image_processor=_images(vlm),
        patch_size=encoder.patch,
        num_additional_image_tokens=extra,
        **shared,
    )


def _square(vlm: VLM) -> dict[str, int]:
    size = vlm.tiler.tile_size
    return {"height": size, "width": size}


def _images(vlm: VLM) -> Any:
    """The image processor."""
    from transformers import LlavaImageProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    tiler: Any = vlm.tiler
    square, kind = _square(vlm), _kind(vlm)
    settings = {
        "size": square,
        "crop_size": square,
        "resample": {name: number for number, name in FILTERS.items()}[tiler.resample],
        "image_mean": list(vlm.encoder.mean),
        "image_std": list(vlm.encoder.std),
    }
    if kind == "llava_next":
        return LlavaNextImageProcessorPil(image_grid_pinpoints=_pinpoints(vlm), **settings)
    if kind == "llava_onevision":
        return LlavaOnevisionImageProcessorPil(image_grid_pinpoints=_pinpoints(vlm), **settings)
    if tiler.fit == "pad_image":
        return LlavaImageProcessor(do_pad=True, do_center_crop=False, **settings)
    if tiler.fit == "crop":
        edge = {"shortest_edge": tiler.shortest_edge or tiler.tile_size}
        return CLIPImageProcessorPil(**settings | {"size": edge})
    return CLIPImageProcessorPil(do_center_crop=False, **settings)
