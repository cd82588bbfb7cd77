"""Idefics3 (Laurençon et al., arXiv 2408.12637) and SmolVLM (Marafioti et al., arXiv 2504.05299).

``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration`` of transformers are one
design: the longest edge resized, tiles with tags, pixel shuffle and one linear layer. Videos are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers import native_layout as native
from hdvl.checkpoints.importers.base import (
    CheckpointSource,
    Importer,
    one_folder,
    read_json,
)
from hdvl.checkpoints.importers.image_settings import FILTERS
from hdvl.checkpoints.importers.mapping import From, renamed
from hdvl.checkpoints.importers.published import Published
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
"""What the image processors of transformers do where their file says nothing."""

TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
}
"""Tokens that the processors write, by the names under which SmolVLM's tokenizer may have others."""


class Idefics3(Importer):
    """Folders whose ``config.json`` says ``idefics3``."""

    name = "idefics3"
    preset = "idefics3_8b"
    licence = "apache-2.0"
    named_tokens = False

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        described = native.resolved(config)
        vision, node = described.vision_config, self.preset_node()
        _refuse_vision(vision, self.name, folder)
        told = native.image_settings(folder)
        settings = _settings(told, vision.image_size)
        _refuse_settings(settings, folder)
        size = settings["max_image_size"]["longest_edge"]
        node["tiler"] |= {
            "tile_size": size,
            "longest_edge": settings["size"]["longest_edge"],
            "split": settings["do_image_splitting"],
            "resample": FILTERS[settings["resample"]],
            "backend": "pillow"
            if str(told.get("image_processor_type")).endswith("Pil")
            else "exact",
        }
        unchanged = {"mean": [0.0] * 3, "std": [1.0] * 3}
        node["encoder"] |= {
            "name": f"{self.name}_vision",  # files of the first releases have another word for it
            "config": native.structure(vision),
            "tile_size": size,
            **(native.statistics(told) if settings["do_normalize"] else unchanged),
        }
        node["bridge"]["factor"] = described.scale_factor
        _check_length(folder, (size // vision.patch_size // described.scale_factor) ** 2)
        native.fill_language(node, folder, config, described, published)
        node["merger"]["tags"] = self._tags(folder, node)
        return node

    def _tags(self, folder: Path, node: Mapping[str, Any]) -> dict[str, str]:
        """The preset's tags with the tokens that the folder's processor writes."""
        tags, tokens = dict(node["merger"]["tags"]), dict(TOKENS)
        if not has_tokenizer(folder):
            return tags
        if self.named_tokens:
            tokenizer = load_tokenizer(folder)
            tokens |= {name: getattr(tokenizer, name, usual) for name, usual in TOKENS.items()}
        own = node["template"]["image_token"]
        if tokens["image_token"] != own:
            raise ValueError(
                f"image_token_id of {str(folder)!r} must be the id of the processor's "
                f"{tokens['image_token']!r}, it is that of {own!r}; one of the two is of another model"
            )
        for name, usual in TOKENS.items():
            braced = tokens[name].replace("{", "{{").replace("}", "}}")
            tags = {key: value and value.replace(usual, braced) for key, value in tags.items()}
        return tags

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        return renamed(targets, NAMES)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        return [r"model\.text_model\..*\.rotary_emb\.inv_freq", *native.ignorable_head(node)]


class SmolVLM(Idefics3):
    """Folders whose ``config.json`` says ``smolvlm``: SmolVLM2, and SmolVLM as transformers saves it."""

    name = "smolvlm"
    preset = "smolvlm"
    named_tokens = True


NAMES = (
    (r"encoder\.model\.(.*)", r"model.vision_model.\1"),
    (r"bridge\.mlp\.1\.weight", "model.connector.modality_projection.proj.weight"),
    (r"llm\.model\.model\.(.*)", r"model.text_model.\1"),
    (r"llm\.model\.lm_head\.(.*)", r"lm_head.\1"),
)
"""From hdvl's names to the published ones."""


def _settings(told: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The image processor's settings; without a file what every published model has."""
    if told:
        return {**DEFAULTS, **told}
    sizes = {
        "size": {"longest_edge": 4 * image_size},
        "max_image_size": {"longest_edge": image_size},
    }
    return {**DEFAULTS, **sizes}


def _refuse_vision(vision: Any, name: str, folder: Path) -> None:
    wanted = {
        "vision_config.model_type": (vision.model_type.removesuffix("_vision"), name),
        "vision_config.num_channels": (vision.num_channels, 3),
        "vision_config.image_size": (type(vision.image_size).__name__, "int"),
        "vision_config.patch_size": (type(vision.patch_size).__name__, "int"),
    }
    _refuse(wanted, folder, "configuration")


def _refuse_settings(settings: Mapping[str, Any], folder: Path) -> None:
    wanted = {
        "do_resize": (settings["do_resize"], True),
        "do_rescale": (settings["do_rescale"], True),
        "do_convert_rgb": (settings["do_convert_rgb"], True),
        "rescale_factor": (abs(settings["rescale_factor"] * 255 - 1) < 1e-6, True),
        "resample": (settings["resample"] in FILTERS, True),
        "size": (_sides(settings["size"]), ["longest_edge"]),
        "max_image_size": (_sides(settings["max_image_size"]), ["longest_edge"]),
    }
    _refuse(wanted, folder, "image processor", settings)


def _sides(size: object) -> object:
    """Which sides a size names."""
    return (
        [key for key, side in size.items() if side is not None] if isinstance(size, dict) else size
    )


def _refuse(
    wanted: Mapping[str, tuple[object, object]],
    folder: Path,
    what: str,
    said: Mapping[str, Any] | None = None,
) -> None:
    wrong = [
        f"{name}={(said or {}).get(name, told)}"
        for name, (told, ours) in wanted.items()
        if told != ours
    ]
    if wrong:
        raise ValueError(
            f"{what} of {str(folder)!r} asks for what hdvl does not do: {'; '.join(wrong)}"
        )


def _check_length(folder: Path, tokens: int) -> None:
    """Refuse a processor that writes another number of image tokens than the model makes of a tile."""
    file = folder / PROCESSOR
    told = read_json(file).get("image_seq_len", tokens) if file.is_file() else tokens
    if told != tokens:
        raise ValueError(
            f"image_seq_len of {str(file)!r} must be the {tokens} tokens that the model makes of a tile, "
            f"got {told}; one of the two is of another model"
        )
