"""XVERSE-V-13B (https://github.com/xverse-ai/XVERSE-V-13B): CLIP, XVERSE-13B-Chat, bridge and LoRA.

It was published in three parts: the folder of ``openai/clip-vit-large-patch14``, the folder of
``xverse/XVERSE-13B-Chat``, and ``adapter_and_lora.bin``, which holds the bridge, perhaps the LayerNorm
behind the encoder, and the LoRA of every linear layer of the language model.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hdvl.checkpoints.importers.base import (
    CONFIG,
    CheckpointSource,
    Importer,
    agree,
    read_json,
    required,
    template_node,
    text_side,
)
from hdvl.checkpoints.importers.llm_config import llm_numbers, stop_ids
from hdvl.checkpoints.importers.mapping import From, lora, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node, assemble

ADAPTER = "adapter_and_lora.bin"
SCALE = 2.0
"""alpha / rank of the published LoRA. The file does not say it; alpha was twice the rank."""

_VISION_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
_LORA = (
    r"llm\.model\.(model\.layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj)\.weight"
)
_WRAPPED = "adapter/llama_model.base_model.model."


class XverseV(Importer):
    """One folder that holds the three parts, under any names, or ``{vision, llm, adapter}``."""

    name = "xverse_v"
    preset = "xverse_v_13b"
    licence = "other"
    parts = ("vision", "llm", "adapter")

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        """The adapter file lies in it, or one level down."""
        return any(Path(name).name == ADAPTER for name in files)

    def config(self, source: CheckpointSource) -> dict[str, Any]:
        """The configurations of ``vision`` and ``llm``, and where the three parts lie."""
        parts = locate(source)
        return {
            "vision": read_json(parts["vision"] / CONFIG),
            "llm": read_json(parts["llm"] / CONFIG),
            "parts": parts,
        }

    def published(self, source: CheckpointSource) -> Published:
        """All three parts, under ``vision/``, ``llm/`` and ``adapter/``."""
        parts = locate(source)
        return Published.joined(
            {
                "vision/": Published.in_folder(parts["vision"]),
                "llm/": Published.in_folder(parts["llm"]),
                "adapter/": Published.in_files([parts["adapter"]], inner="model"),
            }
        )

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        """The preset with the sizes of the three parts."""
        node = self.preset_node()
        vision = _vision_config(config["vision"], published)
        node["encoder"]["config"] = vision
        node["encoder"]["tile_size"] = vision["image_size"]
        node["tiler"].update(tile_size=vision["image_size"], stride=vision["image_size"])
        layers = [
            key for key in published.shapes if re.fullmatch(r"adapter/llama_proj\.\d+\.weight", key)
        ]
        first = published.shapes.get("adapter/llama_proj.0.weight")
        node["bridge"].update(depth=max(1, len(layers)), hidden=None if first is None else first[0])
        folder = config["parts"]["llm"]
        llm = _llm_config(config["llm"], published, node["llm"]["config"])
        tokenizer, slot = text_side(
            folder,
            node["template"]["image_token"],
            rows=llm["vocab_size"],
            pad_token="<pad>",
            eos_token="<|endoftext|>",
        )
        stop = stop_ids(config["llm"], folder) or node["llm"]["stop_ids"]
        node["llm"].update(config=llm, tokenizer=tokenizer, stop_ids=stop)
        node["image_token_id"] = slot
        # Its system prompt too, which the preset leaves to the class.
        node["template"] = template_node(assemble(node["template"], source="the preset"))
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        """Renamed tensors; linear layers of the language model with their LoRA merged."""
        vision = _vision_prefix(published)
        found = renamed(
            targets,
            [
                (r"encoder\.model\.(.*)", rf"{vision}\1"),
                (r"encoder\.feature_norm\.(.*)", r"adapter/ln_vision.\1"),
                (r"bridge\.mlp\.(.*)", r"adapter/llama_proj.\1"),
                (r"llm\.model\.(.*)", r"llm/\1"),
            ],
        )
        if not any(key.startswith("adapter/ln_vision.") for key in published.shapes):
            # The published code makes it, and loads it from nowhere: it stays as it was made.
            width = node["encoder"]["config"]["hidden_size"]
            found["encoder.feature_norm.weight"] = From((), partial(torch.ones, width))
            found["encoder.feature_norm.bias"] = From((), partial(torch.zeros, width))
        newer = any(key.endswith(".lora_A.default.weight") for key in published.shapes)
        end = ".default.weight" if newer else ".weight"
        for target in targets:
            if match := re.fullmatch(_LORA, target):
                a, b = (f"{_WRAPPED}{match[1]}.lora_{side}{end}" for side in "AB")
                found[target] = From((f"llm/{match[1]}.weight", a, b), lora(SCALE))
        return found

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """CLIP's text side and what comes after the chosen block; stored rotary frequencies."""
        last = node["encoder"]["config"]["num_hidden_layers"] - 1
        return (
            r"vision/(text_model\..*|logit_scale|(text|visual)_projection\.weight)",
            r"vision/(vision_model\.)?(post_layernorm\..*|embeddings\.position_ids)",
            rf"vision/(vision_model\.)?encoder\.layers\.{last}\..*",
            r"llm/model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        )


def locate(source: CheckpointSource) -> dict[str, Path]:
    """Where the three parts lie: as given, or found in a folder by what is in them.

    In a folder the adapter is the one ``adapter_and_lora.bin`` in it or one level down, and the
    other two are the sub-folders whose ``config.json`` is CLIP's and XVERSE's.

    Raises:
        ValueError: a part is not there, or there are several; or other parts are given.
    """
    if isinstance(source, Mapping):
        if set(source) != set(XverseV.parts):
            raise ValueError(
                f"xverse_v must be given the parts {', '.join(XverseV.parts)}, got {', '.join(source)}"
            )
        adapter = source["adapter"]
        return {**source, "adapter": adapter / ADAPTER if adapter.is_dir() else adapter}
    configs = {path.parent: read_json(path) for path in sorted(source.glob(f"*/{CONFIG}"))}
    found = {
        "vision": [path for path, config in configs.items() if _is_clip(config)],
        "llm": [path for path, config in configs.items() if _is_xverse(config)],
        "adapter": [*source.glob(ADAPTER), *sorted(source.glob(f"*/{ADAPTER}"))],
    }
    wrong = [
        f"{part}: {', '.join(path.name for path in paths) or 'none'}"
        for part, paths in found.items()
        if len(paths) != 1
    ]
    if wrong:
        raise ValueError(
            f"folder {str(source)!r} must hold one each of a CLIP folder (vision), an XVERSE folder "
            f"(llm) and {ADAPTER} (adapter), got {'; '.join(wrong)}; or give "
            "path={vision: DIR, llm: DIR, adapter: FILE}"
        )
    return {part: paths[0] for part, paths in found.items()}


def _is_clip(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in ("clip", "clip_vision_model")


def _is_xverse(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "xverse" or "XverseForCausalLM" in config.get(
        "architectures", ()
    )


def _vision_prefix(published: Published) -> str:
    long = "vision/vision_model."
    return long if any(key.startswith(long) for key in published.shapes) else "vision/"


def _layers(published: Published, prefix: str) -> int:
    """How many layers are stored under ``prefix``: the highest number and one."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = [int(match[1]) for key in published.shapes if (match := pattern.match(key))]
    return max(numbers, default=-1) + 1


def _side(published: Published, key: str, axis: int = 0) -> int | None:
    shape = published.shapes.get(key)
    return None if shape is None else shape[axis]


def _vision_config(config: Mapping[str, Any], published: Published) -> dict[str, Any]:
    if not _is_clip(config):
        raise ValueError(
            f"vision folder must be CLIP's, its {CONFIG} says model_type={config.get('model_type')!r}"
        )
    told = config.get("vision_config", config)
    sizes = required(told, _VISION_SIZES, source="the CLIP folder")
    prefix = _vision_prefix(published)
    agree(
        {
            "hidden_size": (
                sizes["hidden_size"],
                _side(published, f"{prefix}embeddings.class_embedding"),
            ),
            "num_hidden_layers": (
                sizes["num_hidden_layers"],
                _layers(published, f"{prefix}encoder.layers."),
            ),
        },
        source="the CLIP folder",
    )
    kept = {name: told[name] for name in ("hidden_act", "layer_norm_eps") if name in told}
    return {**sizes, **kept}


def _llm_config(
    config: Mapping[str, Any], published: Published, usual: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration as a Llama's, which XVERSE-13B is; ``usual`` is what it leaves out."""
    if not _is_xverse(config):
        raise ValueError(
            f"llm folder must be XVERSE's, its {CONFIG} says model_type={config.get('model_type')!r}"
        )
    told = llm_numbers({**config, "model_type": "llama"}, source="the XVERSE folder")
    table = "llm/model.embed_tokens.weight"
    agree(
        {
            "vocab_size": (told["vocab_size"], _side(published, table)),
            "vocab_size (head)": (told["vocab_size"], _side(published, "llm/lm_head.weight")),
            "hidden_size": (told["hidden_size"], _side(published, table, axis=1)),
            "num_hidden_layers": (
                told["num_hidden_layers"],
                _layers(published, "llm/model.layers."),
            ),
        },
        source="the XVERSE folder",
    )
    return {**usual, "num_key_value_heads": told["num_attention_heads"], **told}
