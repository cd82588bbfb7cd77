"""InternVL in the layout of transformers, ``InternVLForConditionalGeneration`` (InternVL 2.5, 3, ...)."""

from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.experts import with_experts
from hdvl.checkpoints.importers.image_settings import dynamic_tiles, statistics
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node


class InternVLHF(Importer):
    """Folders whose ``config.json`` says ``internvl``: tokens in raster order (v2)."""

    name = "internvl_hf"
    preset = "internvl3_8b"
    licence = "mit"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == "internvl"

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        _refuse(described, folder)
        settings, node = native.image_settings(folder), self.preset_node()
        node["tiler"] |= {"tile_size": described.vision_config.image_size[0]}
        node["tiler"] |= dynamic_tiles(settings, source=folder)
        encoder = _encoder(described) | statistics(settings)
        node["encoder"] |= encoder | {"tile_size": node["tiler"]["tile_size"]}
        node["bridge"] |= {
            "factor": round(1 / described.downsample_ratio),
            "activation": described.projector_hidden_act,
        }
        native.fill_language(node, folder, config, described, published)
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        at = {part: native.prefix(published, part) for part in native.PREFIXES}
        rules = [
            (r"encoder\.model\.(.*)", rf"{at['vision']}\1"),
            (r"bridge\.mlp\.0\.(.*)", rf"{at['projector']}layer_norm.\1"),
            (r"bridge\.mlp\.1\.(.*)", rf"{at['projector']}linear_1.\1"),
            (r"bridge\.mlp\.3\.(.*)", rf"{at['projector']}linear_2.\1"),
            (r"llm\.model\.model\.(.*)", rf"{at['language']}\1"),
            (r"llm\.model\.lm_head\.(.*)", rf"{at['head']}\1"),
        ]
        return with_experts(renamed(targets, rules), published.shapes)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        depth = int(node["encoder"]["depth"])
        return [*native.ignorable_vision(node, depth), *native.ignorable_head(node)]


def _encoder(described: Any) -> dict[str, Any]:
    vision = described.vision_config
    return {
        "width": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "mlp_width": vision.intermediate_size,
        "patch": vision.patch_size[0],
        "image_size": vision.image_size[0],
        "select_layer": native.counted_from_last(described),
        "norm": vision.norm_type,
        "norm_eps": vision.layer_norm_eps,
        "qk_norm": vision.use_qk_norm,
        "qkv_bias": vision.attention_bias,
    }


def _refuse(described: Any, folder: object) -> None:
    vision = described.vision_config
    ratio = described.downsample_ratio
    wanted = {
        "vision_config.model_type": (vision.model_type, "internvl_vision"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
        "vision_config.num_channels": (vision.num_channels, 3),
        "vision_config.use_mean_pooling": (vision.use_mean_pooling, True),
        "vision_config.use_absolute_position_embeddings": (
            vision.use_absolute_position_embeddings, True
        ),
        "vision_config.use_mask_token": (vision.use_mask_token, False),
        "vision_feature_select_strategy": (described.vision_feature_select_strategy, "default"),
        "one side of image_size": (len(set(vision.image_size)), 1),
        "one side of patch_size": (len(set(vision.patch_size)), 1),
        f"downsample_ratio={ratio} is one over a whole number": (
            abs(ratio * round(1 / ratio) - 1) < 1e-9, True
        ),
    }  # fmt: skip
    if vision.use_qk_norm:  # where transformers fixes the eps
        wanted["vision_config.layer_norm_eps"] = (vision.layer_norm_eps, 1e-6)
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    wrong += native.unlike_a_plain_head(described.text_config)
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
    native.counted_from_last(described)
