"""InternVL in the layout of transformers, ``InternVLForConditionalGeneration`` (InternVL 2.5, 3, ...)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import differing, refuse_unsupported
from hdvl.checkpoints.importers.experts import with_experts
from hdvl.checkpoints.importers.image_settings import dynamic_tiles, statistics
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.transformers_importer import TransformersImporter
from hdvl.checkpoints.nodes import Node


class InternVLHF(TransformersImporter):
    """Folders whose ``model_type`` is ``internvl``: tokens in raster order (v2)."""

    name = "internvl_hf"
    model_type = "internvl"
    preset = "internvl3_8b"
    licence = "mit"
    bridge_names: ClassVar[Mapping[str, str]] = {
        "0": "layer_norm",
        "1": "linear_1",
        "3": "linear_2",
    }

    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        _check_supported(hf_config, folder)
        node["tiler"] |= {"tile_size": hf_config.vision_config.image_size[0]}
        node["tiler"] |= dynamic_tiles(settings, source=folder)
        encoder = _encoder(hf_config) | statistics(settings)
        node["encoder"] |= encoder | {"tile_size": node["tiler"]["tile_size"]}
        node["bridge"] |= {
            "factor": round(1 / hf_config.downsample_ratio),
            "activation": hf_config.projector_hidden_act,
        }

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        return with_experts(super().mapping(targets, node, published), published.shapes)

    def vision_depth(self, node: Mapping[str, Any]) -> int:
        return int(node["encoder"]["depth"])


def _encoder(hf_config: Any) -> dict[str, Any]:
    vision = hf_config.vision_config
    return {
        "width": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "mlp_width": vision.intermediate_size,
        "patch": vision.patch_size[0],
        "image_size": vision.image_size[0],
        "select_layer": layout.counted_from_last(hf_config),
        "norm": vision.norm_type,
        "norm_eps": vision.layer_norm_eps,
        "qk_norm": vision.use_qk_norm,
        "qkv_bias": vision.attention_bias,
    }


def _check_supported(hf_config: Any, folder: Path) -> None:
    vision = hf_config.vision_config
    ratio = hf_config.downsample_ratio
    strategy, positions = (
        hf_config.vision_feature_select_strategy,
        vision.use_absolute_position_embeddings,
    )
    pairs: dict[str, tuple[object, object]] = {
        "vision_config.model_type": (vision.model_type, "internvl_vision"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
        "vision_config.num_channels": (vision.num_channels, 3),
        "vision_config.use_mean_pooling": (vision.use_mean_pooling, True),
        "vision_config.use_absolute_position_embeddings": (positions, True),
        "vision_config.use_mask_token": (vision.use_mask_token, False),
        "vision_feature_select_strategy": (strategy, "default"),
        "number of different sides in image_size": (len(set(vision.image_size)), 1),
        "number of different sides in patch_size": (len(set(vision.patch_size)), 1),
        f"1 / downsample_ratio={ratio} is a whole number": (
            abs(ratio * round(1 / ratio) - 1) < 1e-9,
            True,
        ),
    }
    if vision.use_qk_norm:  # transformers uses this eps for the norms of queries and keys
        pairs["vision_config.layer_norm_eps"] = (vision.layer_norm_eps, 1e-6)
    faults = differing(pairs) + layout.head_faults(hf_config.text_config)
    refuse_unsupported(faults, source=folder)
    layout.counted_from_last(hf_config)
