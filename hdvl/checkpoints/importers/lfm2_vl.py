"""LFM2-VL in the layout of transformers, ``Lfm2VlForConditionalGeneration``.

https://www.liquid.ai/blog/lfm2-vl-efficient-vision-language-models
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.image_settings import FILTERS, statistics
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node
from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer

TOWER = "siglip2_vision_model"


class Lfm2Vl(Importer):
    """Folders whose ``config.json`` says ``lfm2_vl``: native views and tiles, any text model."""

    name = "lfm2_vl"
    preset = "lfm2_vl"
    licence = "other"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described, node = native.resolved(config), self.preset_node()
        settings = _image_settings(folder, described)
        _refuse(described, settings, folder)
        vision = described.vision_config
        node["tiler"] |= _tiler(settings)
        node["encoder"] |= {
            "config": native.structure(vision) | {"vision_use_head": False},
            "tile_size": settings["tile_size"],
            **statistics(settings),
        }
        node["bridge"] |= {
            "factor": described.downsample_factor,
            "hidden": described.projector_hidden_size,
            "bias": described.projector_bias,
            "norm": described.projector_use_layernorm,
            "activation": described.projector_hidden_act,
        }
        node["merger"]["tags"] = _tags(folder, node["merger"]["tags"])
        native.fill_language(node, folder, config, described, published, adds_tokens=False)
        # Older files call it tie_embedding; the class reads both.
        node["llm"]["config"]["tie_word_embeddings"] = described.tie_word_embeddings
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
        tower = r"(model\.)?vision_tower\.(vision_model\.)?"
        rotary = r"(model\.)?language_model\..*\.rotary_emb\.inv_freq"
        return [rf"{tower}head\..*", rotary, *native.ignorable_head(node)]


def _image_settings(folder: Path, described: Any) -> dict[str, Any]:
    """The settings of the folder's image processor, those that it leaves out as the class has them.

    A folder without them is read as one whose image processor goes with the model.
    """
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    usual, told = Lfm2VlImageProcessor().to_dict(), native.image_settings(folder)
    if not told:
        patch = described.vision_config.patch_size
        told = {"encoder_patch_size": patch, "downsample_factor": described.downsample_factor}
    return {**usual, **{name: value for name, value in told.items() if value is not None}}


def _tiler(settings: Mapping[str, Any]) -> dict[str, Any]:
    patch = settings["encoder_patch_size"]
    split = settings["do_image_splitting"]
    return {
        "tile_size": settings["tile_size"],
        "multiple_of": patch * settings["downsample_factor"],
        "smallest_side": patch,
        "min_patches": settings["min_image_tokens"],
        "max_patches": settings["max_image_tokens"],
        "tolerance": settings["max_pixels_tolerance"],
        "min_tiles": settings["min_tiles"] if split else 1,
        "max_tiles": settings["max_tiles"] if split else 1,
        "thumbnail": "last" if settings["use_thumbnail"] else None,
        "split": split,
        "resample": FILTERS[settings["resample"]],
    }


def _tags(folder: Path, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The tags around views: as the tokenizer calls them, none where its settings say so."""
    tags = dict(usual)
    if not has_tokenizer(folder):
        return tags
    tokenizer = load_tokenizer(folder)
    # The published processor takes this from the tokenizer's settings, not from its own.
    if not tokenizer.init_kwargs.get("use_image_special_tokens", True):
        return {}
    for tag, name in (
        ("before_image", "image_start_token"),
        ("after_image", "image_end_token"),
        ("before_thumbnail", "image_thumbnail_token"),
    ):
        token = str(getattr(tokenizer, name, tags[tag]))
        tags[tag] = token.replace("{", "{{").replace("}", "}}")  # tags have placeholders
    return tags


def _refuse(described: Any, settings: Mapping[str, Any], folder: object) -> None:
    vision = described.vision_config
    if vision.model_type != TOWER:
        raise ValueError(f"vision tower of {folder} must be {TOWER}, got {vision.model_type}")
    wanted = {
        "downsample_factor of the image processor": (
            settings["downsample_factor"], described.downsample_factor
        ),
        "encoder_patch_size": (settings["encoder_patch_size"], vision.patch_size),
        "vision_config.num_channels": (vision.num_channels, 3),
        "do_rescale": (settings["do_rescale"], True),
        "do_pad": (settings["do_pad"], True),
    }  # fmt: skip
    wrong = [f"{name}={told} (not {ours})" for name, (told, ours) in wanted.items() if told != ours]
    wrong += native.unlike_a_plain_head(described.text_config)
    if settings["resample"] not in FILTERS:
        wrong.append(f"resample={settings['resample']} (not one of {FILTERS})")
    if wrong:
        raise ValueError(
            f"configuration of {folder} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
