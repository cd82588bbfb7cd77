"""LLaVA-NeXT (LLaVA-1.6) in the layout of transformers, ``LlavaNextForConditionalGeneration``.

https://llava-vl.github.io/blog/2024-01-30-llava-next
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node

# Type of the vision tower: which of its tokens are features. Its last norm is never among them.
_TOWERS = {"clip_vision_model": "default", "siglip_vision_model": "full"}


class LlavaNext(Importer):
    """Folders whose ``config.json`` says ``llava_next``, with a CLIP or SigLIP tower."""

    name = "llava_next"
    preset = "llava_next"
    licence = "other"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        _refuse(described, folder)
        vision, node = described.vision_config, self.preset_node()
        size = vision.image_size
        grids = [[high // size, wide // size] for high, wide in described.image_grid_pinpoints]
        most = max(rows * cols for rows, cols in grids)
        node["tiler"] |= {"tile_size": size, "grids": grids, "max_tiles": most}
        node["encoder"] |= {
            "name": vision.model_type,
            "config": native.structure(vision),
            "tile_size": size,
            "select_layer": described.vision_feature_layer,
            **native.statistics(native.image_settings(folder)),
        }
        native.fill_language(node, folder, config, described, published)
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        at = {part: native.prefix(published, part) for part in native.PREFIXES}
        rules = [
            (r"encoder\.model\.(.*)", rf"{at['vision']}\1"),
            (r"bridge\.mlp\.0\.(.*)", rf"{at['projector']}linear_1.\1"),
            (r"bridge\.mlp\.2\.(.*)", rf"{at['projector']}linear_2.\1"),
            (r"merger\.newline", at["newline"]),
            (r"llm\.model\.model\.(.*)", rf"{at['language']}\1"),
            (r"llm\.model\.lm_head\.(.*)", rf"{at['head']}\1"),
        ]
        return renamed(targets, rules)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        depth = int(node["encoder"]["config"]["num_hidden_layers"])
        return [*native.ignorable_vision(node, depth), *native.ignorable_head(node)]


def _refuse(described: Any, folder: object) -> None:
    vision = described.vision_config
    if vision.model_type not in _TOWERS:
        raise ValueError(
            f"vision tower of {folder} must be one of {', '.join(_TOWERS)}, got {vision.model_type}"
        )
    size, layer = vision.image_size, described.vision_feature_layer
    uneven = [pair for pair in described.image_grid_pinpoints if any(side % size for side in pair)]
    wanted = {
        "vision_feature_select_strategy": (
            described.vision_feature_select_strategy, _TOWERS[vision.model_type]
        ),
        "projector_hidden_act": (described.projector_hidden_act, "gelu"),
        "multimodal_projector_bias": (described.multimodal_projector_bias, True),
        f"image_grid_pinpoints that are no multiples of {size}": (uneven, []),
    }  # fmt: skip
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    if not isinstance(layer, int) or layer > -1:
        wrong.append(f"vision_feature_layer={layer}, not a negative number")
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
