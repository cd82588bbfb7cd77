"""Aya Vision (Dash et al., arXiv 2505.08751), ``AyaVisionForConditionalGeneration`` of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder, read_json
from hdvl.checkpoints.importers.image_settings import dynamic_tiles, statistics
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
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
"""What the processor writes unless its file says otherwise."""


class AyaVision(Importer):
    """Folders whose ``config.json`` says ``aya_vision``, with a SigLIP tower and Cohere2."""

    name = "aya_vision"
    preset = "aya_vision_8b"
    licence = "cc-by-nc-4.0"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        settings, node, vision = (
            native.image_settings(folder), self.preset_node(), described.vision_config
        )  # fmt: skip
        node["tiler"] |= {"tile_size": vision.image_size}
        node["tiler"] |= dynamic_tiles(settings, source=folder)
        _refuse(described, node["tiler"]["tile_size"], folder)
        node["encoder"] |= {
            "config": native.structure(vision),
            "tile_size": vision.image_size,
            "select_layer": native.counted_from_last(described),
            **statistics(settings),
        }
        width = described.text_config.hidden_size
        node["bridge"] |= {
            "factor": described.downsample_factor,
            "hidden": getattr(described, "alignment_intermediate_size", width) // 2,
            "norm_eps": described.adapter_layer_norm_eps,
        }
        tokens = _tokens(folder)
        node["merger"]["tags"] |= _tags(tokens)
        native.fill_language(node, folder, config, described, published, tokens["image_token"])
        if described.text_config.model_type == "cohere2":
            # The class takes the states of the language model and not its scaled logits.
            node["llm"]["config"]["logit_scale"] = 1.0
        _check_image_token(node, tokens, folder)
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        at = {part: native.prefix(published, part) for part in native.PREFIXES}
        rules = [
            (r"encoder\.model\.(.*)", rf"{at['vision']}\1"),
            (r"bridge\.mlp\.0\.(.*)", rf"{at['projector']}layernorm.\1"),
            (r"bridge\.mlp\.1\.(.*)", rf"{at['projector']}linear_1.\1"),
            (r"bridge\.mlp\.3\.(.*)", rf"{at['projector']}linear_2.\1"),
            (r"llm\.model\.model\.(.*)", rf"{at['language']}\1"),
            (r"llm\.model\.lm_head\.(.*)", rf"{at['head']}\1"),
        ]
        return renamed(targets, rules)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        depth = int(node["encoder"]["config"]["num_hidden_layers"])
        return [*native.ignorable_vision(node, depth), *native.ignorable_head(node)]


def _tokens(folder: Path) -> dict[str, str]:
    """The strings that the folder's processor writes."""
    file = folder / PROCESSOR
    told = read_json(file) if file.is_file() else {}
    return {name: str(told.get(name, usual)) for name, usual in TOKENS.items()}


def _tags(tokens: Mapping[str, str]) -> dict[str, str]:
    plain = {name: text.replace("{", "{{").replace("}", "}}") for name, text in tokens.items()}
    return {
        "before_image": plain["start_of_img_token"],
        "after_image": plain["end_of_img_token"],
        "before_tile": plain["tile_token"] + "_{index}",
        "before_thumbnail": plain["tile_global_token"],
        "before_single": plain["tile_global_token"],
    }


def _refuse(described: Any, tile_size: int, folder: Path) -> None:
    vision, text = described.vision_config, described.text_config
    wanted = {
        "vision_config.model_type": (vision.model_type, "siglip_vision_model"),
        "vision_config.num_channels": (vision.num_channels, 3),
        "vision_feature_select_strategy": (described.vision_feature_select_strategy, "full"),
        "size of the image processor": (tile_size, vision.image_size),
    }
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    if text.model_type != "cohere2":
        wrong += native.unlike_a_plain_head(text)
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )


def _check_image_token(node: Mapping[str, Any], tokens: Mapping[str, str], folder: Path) -> None:
    """Refuse a processor whose visual token is not the one that the model replaces."""
    if node["llm"]["tokenizer"] is None:
        return
    own, written = node["template"]["image_token"], tokens["img_patch_token"]
    if own != written:
        raise ValueError(
            f"image_token_index of {str(folder)!r} must be the id of the processor's {written!r}, it "
            f"is that of {own!r}; one of the two is of another model"
        )
