"""Exports to InternVL of transformers: InternViT, pixel shuffle in raster order, one view or tiles."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hdvl.bridges import PixelShuffleMLP
from hdvl.checkpoints.exporters.target import (
    TransformersTarget,
    differing,
    language_model,
    reading_notes,
)
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.encoders import InternViT
from hdvl.mergers import Concat
from hdvl.model import VLM
from hdvl.positions import resized
from hdvl.tilers import DynamicRatio, Squash

_POSITIONS = "encoder.model.embeddings.position_embeddings"
_NAMES = (
    (r"model\.vision_tower\.(.*)", r"encoder.model.\1"),
    (r"model\.multi_modal_projector\.layer_norm\.(.*)", r"bridge.mlp.0.\1"),
    (r"model\.multi_modal_projector\.linear_1\.(.*)", r"bridge.mlp.1.\1"),
    (r"model\.multi_modal_projector\.linear_2\.(.*)", r"bridge.mlp.3.\1"),
    (r"model\.language_model\.(.*)", r"llm.model.model.\1"),
    (r"lm_head\.(.*)", r"llm.model.lm_head.\1"),
)


def is_like(vlm: VLM) -> bool:
    """Whether the encoder and the bridge are InternVL's."""
    return isinstance(vlm.encoder, InternViT) and isinstance(vlm.bridge, PixelShuffleMLP)


def target(vlm: VLM) -> tuple[TransformersTarget | None, list[str]]:
    """The description for transformers, or the reasons why its InternVL cannot represent this model."""
    encoder, bridge, tiler = vlm.encoder, vlm.bridge, vlm.tiler
    assert isinstance(encoder, InternViT) and isinstance(bridge, PixelShuffleMLP)
    text, reasons = language_model(vlm)
    vision = encoder.model.config
    activation = bridge.mlp[2] if len(bridge.mlp) > 2 else None
    reasons += differing(
        {
            "bridge.order": (bridge.order, "v2"),
            "bridge.factor": (bridge.factor, (2, 2)),
            "bridge.depth": (sum(isinstance(m, torch.nn.Linear) for m in bridge.mlp), 2),
            "bridge.activation": (repr(activation), repr(torch.nn.GELU())),
            "bridge.norm": (
                repr(bridge.mlp[0]),
                repr(torch.nn.LayerNorm(bridge.mlp[1].in_features)),
            ),
            "bridge.bias": (bridge.mlp[1].bias is not None, True),
            "bridge.channel_order": (bridge.channel_order, "patch_major"),
            "bridge.hidden": (bridge.mlp[1].out_features, vlm.llm.width),
            "merger": (type(vlm.merger), Concat),
        }
    )
    if vision.use_qk_norm and vision.layer_norm_eps != 1e-6:
        reasons.append(f"encoder.norm_eps={vision.layer_norm_eps} with qk_norm (only 1e-06)")
    if not isinstance(tiler, Squash | DynamicRatio):
        reasons.append(f"tiler is {type(tiler).__name__} (only DynamicRatio and Squash)")
    elif isinstance(tiler, DynamicRatio) and tiler.max_tiles > 1 and tiler.thumbnail != "last":
        reasons.append(f"tiler.thumbnail={tiler.thumbnail} (only last)")
    if reasons:
        return None, reasons
    size, table = encoder.tile_size, vision.image_size[0]
    numbers = {key: value for key, value in vision.to_dict().items() if key not in ("dtype",)}
    config = {
        "model_type": "internvl",
        "vision_config": numbers | {"image_size": [size, size]},
        "text_config": text,
        "image_token_id": vlm.image_token_id,
        "image_seq_length": bridge.out_grid[0] * bridge.out_grid[1],
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    make = {}
    if size != table:  # transformers would interpolate the positions in the dtype of the weights
        own, side = table // encoder.patch, encoder.grid[0]
        target = "model.vision_tower.embeddings.position_embeddings"
        make[target] = TensorSource((_POSITIONS,), partial(_interpolated, own=own, side=side))
    found = TransformersTarget(
        config=config,
        names=_NAMES,
        make=make,
        processor=partial(_processor, vlm),
        wraps=True,
        notes=reading_notes(vlm),
    )
    return found, []


def _interpolated(table: Tensor, *, own: int, side: int) -> Tensor:
    patches = resized(table[0, 1:], (own, own), (side, side))
    return torch.cat((table[:, :1], patches[None]), dim=1)


def _processor(vlm: VLM, tokenizer: Any, chat_template: str) -> Any:
    from transformers import InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    tiler: Any = vlm.tiler
    size = {"height": tiler.tile_size, "width": tiler.tile_size}
    statistics = {"image_mean": list(vlm.encoder.mean), "image_std": list(vlm.encoder.std)}
    rows, cols = vlm.bridge.out_grid
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size=size,
            crop_to_patches=tiler.max_tiles > 1,
            min_patches=getattr(tiler, "min_tiles", 1),
            max_patches=tiler.max_tiles,
            **statistics,
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size, **statistics),
        image_seq_length=rows * cols,
        chat_template=chat_template,
    )
