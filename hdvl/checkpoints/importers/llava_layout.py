"""The base of the importers of LLaVA models of transformers: a CLIP or SigLIP tower, an MLP on each patch."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import differing, refuse_unsupported
from hdvl.checkpoints.importers.image_settings import statistics
from hdvl.checkpoints.importers.transformers_importer import TransformersImporter
from hdvl.checkpoints.nodes import Node

_TOWERS = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""Type of the vision tower -> ``vision_feature_select_strategy`` that keeps its patch tokens.

The final norm of the tower is never applied to them.
"""


class LlavaImporter(TransformersImporter):
    """Base of the importers of LLaVA's designs."""

    licence = "other"
    bridge_names: ClassVar[Mapping[str, str]] = {"0": "linear_1", "2": "linear_2"}

    @abstractmethod
    def fill_images(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        """Put the tiler and the merger into ``node``."""

    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        _check_supported(hf_config, folder)
        vision = hf_config.vision_config
        node["encoder"] |= {
            "name": vision.model_type,
            "config": layout.structure(vision),
            "tile_size": vision.image_size,
            "select_layer": layout.counted_from_last(hf_config),
            **statistics(settings),
        }
        node["bridge"] |= {
            "bias": hf_config.multimodal_projector_bias,
            "activation": hf_config.projector_hidden_act,
        }
        self.fill_images(node, hf_config, settings, folder)


def _check_supported(hf_config: Any, folder: Path) -> None:
    vision = hf_config.vision_config
    if vision.model_type not in _TOWERS:
        raise ValueError(
            f"vision tower of {folder} must be one of {', '.join(_TOWERS)}, got {vision.model_type}"
        )
    strategies = (hf_config.vision_feature_select_strategy, _TOWERS[vision.model_type])
    faults = differing(
        {
            "vision_feature_select_strategy": strategies,
            "vision_config.num_channels": (vision.num_channels, 3),
        }
    )
    refuse_unsupported(faults + layout.head_faults(hf_config.text_config), source=folder)
