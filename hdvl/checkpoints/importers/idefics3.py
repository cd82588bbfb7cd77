"""Idefics3 (Laurençon et al., arXiv 2408.12637) and SmolVLM (Marafioti et al., arXiv 2504.05299).

``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration`` of transformers share one
design: the longest edge is resized, tiles have tags, and the bridge is a pixel shuffle with one linear layer.
Videos are not supported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import differing, read_json, refuse_unsupported
from hdvl.checkpoints.importers.image_settings import FILTERS
from hdvl.checkpoints.importers.mapping import TensorSource, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.transformers_importer import TransformersImporter
from hdvl.checkpoints.nodes import Node
from hdvl.llms import load_tokenizer
from hdvl.llms.tokenizers import has_tokenizer

PROCESSOR = "processor_config.json"
DEFAULTS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "rescale_factor": 1 / 255,
    "resample": 1,
    "size": {"longest_edge": 1456},
    "max_image_size": {"longest_edge": 364},
}
"""The default settings of the image processors of transformers."""

TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
}
"""The tokens that the processors write; attributes of SmolVLM's tokenizer with these keys replace them."""


class Idefics3(TransformersImporter):
    """Folders whose ``model_type`` is ``idefics3``."""

    name = model_type = "idefics3"
    preset = "idefics3_8b"
    licence = "apache-2.0"
    bridge_names: ClassVar[Mapping[str, str]] = {}  # mapping() has rules of its own
    named_tokens = False

    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        vision, stored = hf_config.vision_config, settings
        _check_vision(vision, self.name, folder)
        settings = _settings(stored, vision.image_size)
        _check_settings(settings, folder)
        size = settings["max_image_size"]["longest_edge"]
        node["tiler"] |= {
            "tile_size": size,
            "longest_edge": settings["size"]["longest_edge"],
            "split": settings["do_image_splitting"],
            "resample": FILTERS[settings["resample"]],
            "backend": "pillow"
            if str(stored.get("image_processor_type")).endswith("Pil")
            else "exact",
        }
        unchanged = {"mean": [0.0] * 3, "std": [1.0] * 3}
        node["encoder"] |= {
            "name": f"{self.name}_vision",  # the files of the first releases have another model_type
            "config": layout.structure(vision),
            "tile_size": size,
            **(layout.statistics(stored) if settings["do_normalize"] else unchanged),
        }
        node["bridge"]["factor"] = hf_config.scale_factor
        _check_length(folder, (size // vision.patch_size // hf_config.scale_factor) ** 2)

    def fill_text(self, node: Node, hf_config: Any, folder: Path) -> None:
        node["merger"]["tags"] = self._tags(folder, node)

    def _tags(self, folder: Path, node: Mapping[str, Any]) -> dict[str, str]:
        """The preset's tags with the tokens that the folder's processor writes."""
        tags, tokens = dict(node["merger"]["tags"]), dict(TOKENS)
        if not has_tokenizer(folder):
            return tags
        if self.named_tokens:
            tokenizer = load_tokenizer(folder)
            tokens |= {name: getattr(tokenizer, name, default) for name, default in TOKENS.items()}
        own = node["template"]["image_token"]
        if tokens["image_token"] != own:
            raise ValueError(
                f"image_token_id of {str(folder)!r} must be the id of the processor's "
                f"{tokens['image_token']!r}, it is that of {own!r}; one of the two belongs to another "
                "model"
            )
        for name, default in TOKENS.items():
            escaped = layout.escape_braces(tokens[name])
            tags = {key: value and value.replace(default, escaped) for key, value in tags.items()}
        return tags

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        return renamed(targets, NAMES)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        return [r"model\.text_model\..*\.rotary_emb\.inv_freq", *layout.ignorable_head(node)]


class SmolVLM(Idefics3):
    """Folders whose ``model_type`` is ``smolvlm``: SmolVLM2, and SmolVLM as transformers saves it."""

    name = model_type = "smolvlm"
    preset = "smolvlm"
    named_tokens = True


NAMES = (
    (r"encoder\.model\.(.*)", r"model.vision_model.\1"),
    (r"bridge\.mlp\.1\.weight", "model.connector.modality_projection.proj.weight"),
    (r"llm\.model\.model\.(.*)", r"model.text_model.\1"),
    (r"llm\.model\.lm_head\.(.*)", r"lm_head.\1"),
)
"""Regular expressions of hdvl's names -> the published names."""


def _settings(stored: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The image processor's settings; without a file the values that all published models have."""
    if stored:
        return {**DEFAULTS, **stored}
    sizes = {
        "size": {"longest_edge": 4 * image_size},
        "max_image_size": {"longest_edge": image_size},
    }
    return {**DEFAULTS, **sizes}


def _check_vision(vision: Any, name: str, folder: Path) -> None:
    faults = differing(
        {
            "vision_config.model_type": (vision.model_type.removesuffix("_vision"), name),
            "vision_config.num_channels": (vision.num_channels, 3),
            "type of vision_config.image_size": (type(vision.image_size).__name__, "int"),
            "type of vision_config.patch_size": (type(vision.patch_size).__name__, "int"),
        }
    )
    refuse_unsupported(faults, source=folder)


def _check_settings(settings: Mapping[str, Any], folder: Path) -> None:
    supported = {
        "do_resize": settings["do_resize"] is True,
        "do_rescale": settings["do_rescale"] is True,
        "do_convert_rgb": settings["do_convert_rgb"] is True,
        "rescale_factor": abs(settings["rescale_factor"] * 255 - 1) < 1e-6,
        "resample": settings["resample"] in FILTERS,
        "size": _sides(settings["size"]) == ["longest_edge"],
        "max_image_size": _sides(settings["max_image_size"]) == ["longest_edge"],
    }
    faults = [f"{name}={settings[name]}" for name, right in supported.items() if not right]
    refuse_unsupported(faults, source=folder, file="image processor")


def _sides(size: object) -> object:
    """The names of the sides that ``size`` sets."""
    return (
        [key for key, side in size.items() if side is not None] if isinstance(size, dict) else size
    )


def _check_length(folder: Path, tokens: int) -> None:
    """Raise an error if the processor writes other than ``tokens`` image tokens for a tile."""
    file = folder / PROCESSOR
    length = read_json(file).get("image_seq_len", tokens) if file.is_file() else tokens
    if length != tokens:
        raise ValueError(
            f"image_seq_len of {str(file)!r} must be the {tokens} tokens that the model makes of a tile, "
            f"got {length}; one of the two belongs to another model"
        )
