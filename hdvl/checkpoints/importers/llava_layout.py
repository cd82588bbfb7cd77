"""What the LLaVA models of transformers share: a CLIP or SigLIP tower, a perceptron on each patch."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.image_settings import statistics
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node

_TOWERS = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""Type of the vision tower: which of its tokens are patches. Its last norm is never applied to them."""


class LlavaImporter(Importer):
    """Base of the importers of LLaVA's designs."""

    licence = "other"

    @abstractmethod
    def fill_images(
        self, node: Node, described: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        """Put how images are cut and merged into ``node``."""

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        _refuse(described, folder)
        vision, node = described.vision_config, self.preset_node()
        settings = native.image_settings(folder)
        node["encoder"] |= {
            "name": vision.model_type,
            "config": native.structure(vision),
            "tile_size": vision.image_size,
            "select_layer": native.counted_from_last(described),
            **statistics(settings),
        }
        node["bridge"] |= {
            "bias": described.multimodal_projector_bias,
            "activation": described.projector_hidden_act,
        }
        self.fill_images(node, described, settings, folder)
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
    wanted = {
        "vision_feature_select_strategy": (
            described.vision_feature_select_strategy, _TOWERS[vision.model_type]
        ),
        "vision_config.num_channels": (vision.num_channels, 3),
    }  # fmt: skip
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    wrong += native.unlike_a_plain_head(described.text_config)
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
