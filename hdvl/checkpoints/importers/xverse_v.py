"""XVERSE-V-13B (https://github.com/xverse-ai/XVERSE-V-13B): CLIP, XVERSE-13B-Chat, bridge and LoRA.

It was published in three parts: the folder of ``openai/clip-vit-large-patch14``, the folder of
``xverse/XVERSE-13B-Chat``, and ``adapter_and_lora.bin``. The last holds the bridge, in some releases the
LayerNorm after the encoder, and the LoRA tensors of every linear layer of the language model.
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
    tokenizer_and_image_id,
)
from hdvl.checkpoints.importers.llm_config import llm_numbers, stop_ids
from hdvl.checkpoints.importers.mapping import TensorSource, merge_lora, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node, assemble

ADAPTER = "adapter_and_lora.bin"
SCALE = 2.0
"""alpha / rank of the published LoRA: alpha was twice the rank, which the file does not contain."""

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
    """One folder that holds the three parts, under any names, or a mapping ``{vision, llm, adapter}``."""

    name = "xverse_v"
    preset = "xverse_v_13b"
    licence = "other"
    parts = ("vision", "llm", "adapter")

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        """The adapter file is in the folder or one level down."""
        return any(Path(name).name == ADAPTER for name in files)

    def config(self, source: CheckpointSource) -> dict[str, Any]:
        """The configurations of ``vision`` and ``llm``, and the paths of the three parts."""
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
        tokenizer, slot = tokenizer_and_image_id(
            folder,
            node["template"]["image_token"],
            rows=llm["vocab_size"],
            pad_token="<pad>",
            eos_token="<|endoftext|>",
        )
        stop = stop_ids(config["llm"], folder) or node["llm"]["stop_ids"]
        node["llm"].update(config=llm, tokenizer=tokenizer, stop_ids=stop)
        node["image_token_id"] = slot
        # Written out with its system prompt, which is a default of the class in the preset.
        node["template"] = template_node(assemble(node["template"], source="the preset"))
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        """Renamed tensors; LoRA is merged into the linear layers of the language model."""
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
            # The published code then leaves this LayerNorm at its initial values.
            width = node["encoder"]["config"]["hidden_size"]
            found["encoder.feature_norm.weight"] = TensorSource((), partial(torch.ones, width))
            found["encoder.feature_norm.bias"] = TensorSource((), partial(torch.zeros, width))
        newer = any(key.endswith(".lora_A.default.weight") for key in published.shapes)
        end = ".default.weight" if newer else ".weight"
        for target in targets:
            if match := re.fullmatch(_LORA, target):
                a, b = (f"{_WRAPPED}{match[1]}.lora_{side}{end}" for side in "AB")
                found[target] = TensorSource((f"llm/{match[1]}.weight", a, b), merge_lora(SCALE))
        return found

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """CLIP's text model, tensors after the selected block, and stored rotary frequencies."""
        last = node["encoder"]["config"]["num_hidden_layers"] - 1
        return (
            r"vision/(text_model\..*|logit_scale|(text|visual)_projection\.weight)",
            r"vision/(vision_model\.)?(post_layernorm\..*|embeddings\.position_ids)",
            rf"vision/(vision_model\.)?encoder\.layers\.{last}\..*",
            r"llm/model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        )


def locate(source: CheckpointSource) -> dict[str, Path]:
    """The paths of the three parts, which are given or found in a folder by their content.

    In a folder, the adapter is the only ``adapter_and_lora.bin`` in it or one level down, and the other two
    parts are the sub-folders whose ``config.json`` is that of CLIP and that of XVERSE.

    Raises:
        ValueError: a part is absent or there are several, or other parts are given.
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
    """The number of layers stored under ``prefix``: the highest index plus one."""
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
    settings = config.get("vision_config", config)
    sizes = required(settings, _VISION_SIZES, source="the CLIP folder")
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
    kept = {name: settings[name] for name in ("hidden_act", "layer_norm_eps") if name in settings}
    return {**sizes, **kept}


def _llm_config(
    config: Mapping[str, Any], published: Published, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration as that of a Llama, which XVERSE-13B computes; ``defaults`` fill absent keys."""
    if not _is_xverse(config):
        raise ValueError(
            f"llm folder must be XVERSE's, its {CONFIG} says model_type={config.get('model_type')!r}"
        )
    settings = llm_numbers({**config, "model_type": "llama"}, source="the XVERSE folder")
    table = "llm/model.embed_tokens.weight"
    agree(
        {
            "vocab_size": (settings["vocab_size"], _side(published, table)),
            "vocab_size (head)": (settings["vocab_size"], _side(published, "llm/lm_head.weight")),
            "hidden_size": (settings["hidden_size"], _side(published, table, axis=1)),
            "num_hidden_layers": (
                settings["num_hidden_layers"],
                _layers(published, "llm/model.layers."),
            ),
        },
        source="the XVERSE folder",
    )
    return {**defaults, "num_key_value_heads": settings["num_attention_heads"], **settings}
