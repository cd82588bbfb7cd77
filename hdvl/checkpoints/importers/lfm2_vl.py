"""LFM2-VL in the layout of transformers, ``Lfm2VlForConditionalGeneration``.

https://www.liquid.ai/blog/lfm2-vl-efficient-vision-language-models
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import differing, refuse_unsupported
from hdvl.checkpoints.importers.image_settings import FILTERS, statistics
from hdvl.checkpoints.importers.transformers_importer import TransformersImporter
from hdvl.checkpoints.nodes import Node
from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer

TOWER = "siglip2_vision_model"


class Lfm2Vl(TransformersImporter):
    """Folders whose ``model_type`` is ``lfm2_vl``: native views and tiles, any text model."""

    name = model_type = "lfm2_vl"
    preset = "lfm2_vl"
    licence = "other"
    bridge_names: ClassVar[Mapping[str, str]] = {
        "0": "layer_norm",
        "1": "linear_1",
        "3": "linear_2",
    }
    adds_tokens = False

    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        settings = _complete(settings, hf_config)
        _check_supported(hf_config, settings, folder)
        node["tiler"] |= _tiler(settings)
        node["encoder"] |= {
            "config": layout.structure(hf_config.vision_config) | {"vision_use_head": False},
            "tile_size": settings["tile_size"],
            **statistics(settings),
        }
        node["bridge"] |= {
            "factor": hf_config.downsample_factor,
            "hidden": hf_config.projector_hidden_size,
            "bias": hf_config.projector_bias,
            "norm": hf_config.projector_use_layernorm,
            "activation": hf_config.projector_hidden_act,
        }
        node["merger"]["tags"] = _tags(folder, node["merger"]["tags"])

    def fill_text(self, node: Node, hf_config: Any, folder: Path) -> None:
        # Older files name it tie_embedding; the configuration class reads both.
        node["llm"]["config"]["tie_word_embeddings"] = hf_config.tie_word_embeddings

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        tower = r"(model\.)?vision_tower\.(vision_model\.)?"
        rotary = r"(model\.)?language_model\..*\.rotary_emb\.inv_freq"
        return [rf"{tower}head\..*", rotary, *layout.ignorable_head(node)]


def _complete(settings: Mapping[str, Any], hf_config: Any) -> dict[str, Any]:
    """``settings`` of the image processor with the defaults of its class where they are absent.

    Without any settings, the patch size and the downsampling factor are those of the model.
    """
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    if not settings:
        patch = hf_config.vision_config.patch_size
        settings = {"encoder_patch_size": patch, "downsample_factor": hf_config.downsample_factor}
    given = {name: value for name, value in settings.items() if value is not None}
    return {**Lfm2VlImageProcessor().to_dict(), **given}


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


def _tags(folder: Path, default: Mapping[str, Any]) -> dict[str, Any]:
    """The tags around views, with the tokens of the tokenizer; empty if its settings disable them."""
    tags = dict(default)
    if not has_tokenizer(folder):
        return tags
    tokenizer = load_tokenizer(folder)
    # The published processor reads this switch from the settings of the tokenizer, not from its own.
    if not tokenizer.init_kwargs.get("use_image_special_tokens", True):
        return {}
    for tag, name in (
        ("before_image", "image_start_token"),
        ("after_image", "image_end_token"),
        ("before_thumbnail", "image_thumbnail_token"),
    ):
        tags[tag] = layout.escape_braces(str(getattr(tokenizer, name, tags[tag])))
    return tags


def _check_supported(hf_config: Any, settings: Mapping[str, Any], folder: Path) -> None:
    vision = hf_config.vision_config
    if vision.model_type != TOWER:
        raise ValueError(f"vision tower of {folder} must be {TOWER}, got {vision.model_type}")
    factors = (settings["downsample_factor"], hf_config.downsample_factor)
    faults = differing(
        {
            "downsample_factor of the image processor": factors,
            "encoder_patch_size": (settings["encoder_patch_size"], vision.patch_size),
            "vision_config.num_channels": (vision.num_channels, 3),
            "do_rescale": (settings["do_rescale"], True),
            "do_pad": (settings["do_pad"], True),
        }
    )
    faults += layout.head_faults(hf_config.text_config)
    if settings["resample"] not in FILTERS:
        faults.append(f"resample={settings['resample']} (only {', '.join(map(str, FILTERS))})")
    refuse_unsupported(faults, source=folder)
