"""Aya Vision (Dash et al., arXiv 2505.08751), ``AyaVisionForConditionalGeneration`` of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import differing, read_json, refuse_unsupported
from hdvl.checkpoints.importers.image_settings import dynamic_tiles, statistics
from hdvl.checkpoints.importers.transformers_importer import TransformersImporter
from hdvl.checkpoints.nodes import Node

PROCESSOR = "processor_config.json"
TOKENS = {
    "image_token": "<image>",
    "start_of_img_token": "<|START_OF_IMG|>",
    "end_of_img_token": "<|END_OF_IMG|>",
    "img_patch_token": "<|IMG_PATCH|>",
    "tile_token": "TILE",
    "tile_global_token": "TILE_GLOBAL",
}
"""The default tokens of the processor, which its file may replace."""


class AyaVision(TransformersImporter):
    """Folders whose ``model_type`` is ``aya_vision``, with a SigLIP tower and Cohere2."""

    name = model_type = "aya_vision"
    preset = "aya_vision_8b"
    licence = "cc-by-nc-4.0"
    bridge_names: ClassVar[Mapping[str, str]] = {"0": "layernorm", "1": "linear_1", "3": "linear_2"}

    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        vision = hf_config.vision_config
        node["tiler"] |= {"tile_size": vision.image_size}
        node["tiler"] |= dynamic_tiles(settings, source=folder)
        _check_supported(hf_config, node["tiler"]["tile_size"], folder)
        node["encoder"] |= {
            "config": layout.structure(vision),
            "tile_size": vision.image_size,
            "select_layer": layout.counted_from_last(hf_config),
            **statistics(settings),
        }
        width = hf_config.text_config.hidden_size
        node["bridge"] |= {
            "factor": hf_config.downsample_factor,
            "hidden": getattr(hf_config, "alignment_intermediate_size", width) // 2,
            "norm_eps": hf_config.adapter_layer_norm_eps,
        }
        node["merger"]["tags"] |= _tags(_tokens(folder))

    def image_placeholder(self, folder: Path) -> str:
        return _tokens(folder)["image_token"]

    def fill_text(self, node: Node, hf_config: Any, folder: Path) -> None:
        if hf_config.text_config.model_type == "cohere2":
            # The published class applies lm_head to the hidden states and does not scale the logits.
            node["llm"]["config"]["logit_scale"] = 1.0
        _check_image_token(node, _tokens(folder), folder)


def _tokens(folder: Path) -> dict[str, str]:
    """The strings that the folder's processor writes."""
    file = folder / PROCESSOR
    settings = read_json(file) if file.is_file() else {}
    return {name: str(settings.get(name, default)) for name, default in TOKENS.items()}


def _tags(tokens: Mapping[str, str]) -> dict[str, str]:
    escaped = {name: layout.escape_braces(text) for name, text in tokens.items()}
    return {
        "before_image": escaped["start_of_img_token"],
        "after_image": escaped["end_of_img_token"],
        "before_tile": escaped["tile_token"] + "_{index}",
        "before_thumbnail": escaped["tile_global_token"],
        "before_single": escaped["tile_global_token"],
    }


def _check_supported(hf_config: Any, tile_size: int, folder: Path) -> None:
    vision, text = hf_config.vision_config, hf_config.text_config
    strategy = hf_config.vision_feature_select_strategy
    faults = differing(
        {
            "vision_config.model_type": (vision.model_type, "siglip_vision_model"),
            "vision_config.num_channels": (vision.num_channels, 3),
            "vision_feature_select_strategy": (strategy, "full"),
            "size of the image processor": (tile_size, vision.image_size),
        }
    )
    if text.model_type != "cohere2":
        faults += layout.head_faults(text)
    refuse_unsupported(faults, source=folder)


def _check_image_token(node: Mapping[str, Any], tokens: Mapping[str, str], folder: Path) -> None:
    """Raise an error if the processor's visual token is not the one that the model replaces."""
    if node["llm"]["tokenizer"] is None:
        return
    own, written = node["template"]["image_token"], tokens["img_patch_token"]
    if own != written:
        raise ValueError(
            f"image_token_index of {str(folder)!r} must be the id of the processor's {written!r}, it "
            f"is that of {own!r}; one of the two belongs to another model"
        )
