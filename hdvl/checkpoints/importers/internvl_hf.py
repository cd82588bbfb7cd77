"""InternVL in the layout of transformers, ``InternVLForConditionalGeneration`` (InternVL 2.5, 3, ...)."""

from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node


class InternVLHF(Importer):
    """Folders whose ``config.json`` says ``internvl``: tokens in raster order (v2)."""

    name = "internvl_hf"
    preset = "internvl_1_5_dynamic"
    licence = "mit"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == "internvl"

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        _refuse(described, folder)
        settings = native.image_settings(folder)
        dynamic = settings.get("max_patches", 12) > 1
        node = self.preset_node(None if dynamic else "internvl_chat_v1_2")
        size = described.vision_config.image_size[0]
        node["tiler"]["tile_size"] = size
        if dynamic:
            node["tiler"] |= {
                "min_tiles": settings.get("min_patches", 1),
                "max_tiles": settings.get("max_patches", 12),
            }
        node["encoder"] |= _encoder(described) | native.statistics(settings)
        node["bridge"] |= {"order": "v2", "factor": round(1 / described.downsample_ratio)}
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
        return renamed(targets, rules)

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
        "tile_size": vision.image_size[0],
        "select_layer": described.vision_feature_layer,
        "norm": vision.norm_type,
        "norm_eps": vision.layer_norm_eps,
        "qk_norm": vision.use_qk_norm,
        "qkv_bias": vision.attention_bias,
    }


def _refuse(described: Any, folder: object) -> None:
    vision = described.vision_config
    wanted = {
        "vision_config.model_type": (vision.model_type, "internvl_vision"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
        "vision_config.use_mean_pooling": (vision.use_mean_pooling, True),
        "vision_config.use_absolute_position_embeddings": (
            vision.use_absolute_position_embeddings, True
        ),
        "vision_config.use_mask_token": (vision.use_mask_token, False),
        "vision_feature_select_strategy": (described.vision_feature_select_strategy, "default"),
        "projector_hidden_act": (described.projector_hidden_act, "gelu"),
        "one side of image_size": (len(set(vision.image_size)), 1),
        "one side of patch_size": (len(set(vision.patch_size)), 1),
    }  # fmt: skip
    if vision.use_qk_norm:  # where transformers fixes the eps
        wanted["vision_config.layer_norm_eps"] = (vision.layer_norm_eps, 1e-6)
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    if not isinstance(described.vision_feature_layer, int) or described.vision_feature_layer > -1:
        wrong.append(
            f"vision_feature_layer={described.vision_feature_layer}, not a negative number"
        )
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
