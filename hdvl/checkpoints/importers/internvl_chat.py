"""InternVL-Chat in the layout of OpenGVLab: ``vision_model``, ``mlp1`` and ``language_model``.

Chen et al., arXiv 2312.14238 (1.2 and 1.2-Plus) and 2404.16821 (dynamic tiles, tokens in raster order);
InternVL 2.5, 3 and 3.5 (arXiv 2412.05271, 2504.10479 and 2508.18265).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from typing import Any

from torch import Tensor

from hdvl.checkpoints.importers.base import (
    CheckpointSource,
    Importer,
    agree,
    one_folder,
    refuse_unsupported,
    required,
    tokenizer_and_image_id,
)
from hdvl.checkpoints.importers.experts import with_experts
from hdvl.checkpoints.importers.internlm2 import as_llama, internlm3_as_llama, llama_entry
from hdvl.checkpoints.importers.llm_config import llm_numbers, stop_ids
from hdvl.checkpoints.importers.mapping import TensorSource, merge_lora, qkv_rows
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.transformers_layout import known_boxes
from hdvl.checkpoints.nodes import Node, marked
from hdvl.encoders.intern_vit import published_key
from hdvl.llms import load_tokenizer
from hdvl.templates import node_of

SYSTEM = "Answer the questions."
"""The system prompt of the training of 1.2, which its first configurations do not contain."""

LORA_SCALE = 2.0
"""alpha / rank of LoRA in the published training code since February 2024."""

_TEMPLATES = {
    "Hermes-2": "internvl_chat_v1_2",
    "internlm2-chat": "internvl_chat_v1_2",
    "internvl2_5": "internvl3_8b",
}
"""Published names of templates -> the choice of ``conf/model/`` with it. The first two are equal."""

_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "GptOssForCausalLM": "gpt_oss",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM3ForCausalLM": "internlm3",
}
_VISION = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
           "patch_size", "image_size")  # fmt: skip
_TOP = ("vision_config", "llm_config", "select_layer", "downsample_ratio")


class InternVLChat(Importer):
    """InternVL-Chat folders, with LoRA merged or with the separate LoRA tensors that its trainer stores."""

    name = "internvl_chat"
    preset = "internvl_chat_v1_2"
    licence = "mit"

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.name or "InternVLChatModel" in (
            config.get("architectures") or ()
        )

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        required(config, _TOP, source=folder)
        _check_supported(config, folder)
        dynamic = _is_dynamic(config)
        node = self.preset_node("internvl_1_5_dynamic" if dynamic else None)
        template = config.get("template", "Hermes-2")
        node["template"] = self.preset_node(_TEMPLATES[template])["template"]
        shapes = {_merged_name(key): shape for key, shape in published.shapes.items()}
        vision = required(config["vision_config"], _VISION, source=f"{folder} (vision_config)")
        size = int(config.get("force_image_size") or vision["image_size"])
        node["tiler"] |= {"tile_size": size, **(_tiles(config) if dynamic else {})}
        node["encoder"] |= _encoder(config, vision, size)
        node["bridge"] |= _bridge(config, shapes)
        tokenizer, slot = tokenizer_and_image_id(folder, node["template"]["image_token"])
        if tokenizer is not None:
            boxes = known_boxes(load_tokenizer(folder), node["template"]["boxes"])
            node["template"]["boxes"] = marked(node_of(boxes))
        node["llm"] |= {
            "config": _llm_numbers(config["llm_config"], f"{folder} (llm_config)"),
            "tokenizer": tokenizer,
            "stop_ids": stop_ids(config["llm_config"], folder),
        }
        default = node["template"]["system"] if template == "internvl2_5" else SYSTEM
        node["template"]["system"] = config.get("system_message", default)
        node["image_token_id"] = config.get("image_context_id", slot) if slot < 0 else slot
        _check_shapes(node, config, shapes, folder)
        return node

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        stored_names = {_merged_name(key): key for key in published.shapes}
        internlm2 = "language_model.model.tok_embeddings.weight" in stored_names
        plain = {target: _entry(target, node, internlm2) for target in targets}
        plain = with_experts(plain, stored_names)
        return {target: _merged(entry, stored_names) for target, entry in plain.items()}

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """Vision blocks after ``select_layer``, stored rotary frequencies, and the head if it is tied."""
        encoder = node["encoder"]
        built = encoder["depth"] + encoder["select_layer"] + 1
        left_out = "|".join(str(number) for number in range(built, encoder["depth"]))
        found = [r"language_model\..*\.rotary_emb\.inv_freq"]
        if left_out:
            found.append(rf"vision_model\.(base_model\.model\.)?encoder\.layers\.({left_out})\..*")
        if node["llm"]["config"].get("tie_word_embeddings"):
            found.append(r"language_model\.(base_model\.model\.)?lm_head\.weight")
        return found


def _merged_name(key: str) -> str:
    """``key`` without the infixes of peft: the name of the tensor after merging."""
    return key.replace(".base_model.model.", ".").replace(".base_layer.", ".")


def _check_supported(config: Mapping[str, Any], folder: object) -> None:
    vision = config["vision_config"]
    faults = []
    if config.get("pad2square"):
        faults.append("pad2square=True (only False)")
    if vision.get("hidden_act", "gelu") != "gelu":
        faults.append(f"vision_config.hidden_act={vision['hidden_act']} (only gelu)")
    if config.get("template", "Hermes-2") not in _TEMPLATES:
        faults.append(f"template={config['template']} (only {', '.join(_TEMPLATES)})")
    if config.get("ps_version", "v1") not in ("v1", "v2"):
        faults.append(f"ps_version={config['ps_version']} (only v1 and v2)")
    for key in ("use_backbone_lora", "use_llm_lora"):
        if not isinstance(config.get(key, 0), int):
            faults.append(f"{key}={config[key]!r} (only a rank or 0)")
    refuse_unsupported(faults, source=folder)


def _is_dynamic(config: Mapping[str, Any]) -> bool:
    return bool(config.get("dynamic_image_size", (config.get("max_dynamic_patch") or 1) > 1))


def _tiles(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "min_tiles": config.get("min_dynamic_patch") or 1,
        "max_tiles": config.get("max_dynamic_patch") or 1,
        "thumbnail": "last" if config.get("use_thumbnail") else None,
    }


def _encoder(config: Mapping[str, Any], vision: Mapping[str, Any], size: int) -> dict[str, Any]:
    stored = config["vision_config"]
    return {
        "width": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "mlp_width": vision["intermediate_size"],
        "patch": vision["patch_size"],
        "image_size": vision["image_size"],
        "tile_size": size,
        "select_layer": config["select_layer"],
        # The published 6B files lack these keys: the defaults are those of the published class.
        "norm": stored.get("norm_type", "rms_norm"),
        "norm_eps": stored.get("layer_norm_eps", 1e-6),
        "qk_norm": stored.get("qk_normalization", True),
        "qkv_bias": stored.get("qkv_bias", False),
        "drop_path": stored.get("drop_path_rate", 0.0),
    }


def _bridge(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    ratio = float(config["downsample_ratio"])
    factor = round(1 / ratio)
    if factor * ratio != 1:
        raise ValueError(
            f"1 / downsample_ratio must be a whole number, got downsample_ratio={ratio}"
        )
    # Revisions before July 2024 have no ps_version: they compute v1.
    bridge = {"factor": factor, "order": config.get("ps_version", "v1")}
    return bridge | {"hidden": shapes.get("mlp1.1.weight", (None,))[0]}


def _llm_numbers(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = (config.get("architectures") or [None])[0]
    if kind not in _MODEL_TYPES:
        raise ValueError(
            f"architectures of {source} must be one of {', '.join(_MODEL_TYPES)}, got {kind}"
        )
    model_type = _MODEL_TYPES[kind]
    translate = {"internlm2": as_llama, "internlm3": internlm3_as_llama}.get(model_type)
    config = translate(config) if translate else {**config, "model_type": model_type}
    return llm_numbers(config, source=source)


def _check_shapes(
    node: Mapping[str, Any],
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    folder: object,
) -> None:
    """Compare numbers of the configuration with the shapes of the weights, as far as those are stored."""
    pairs = dict[str, tuple[object, object]]()
    table = shapes.get("vision_model.embeddings.position_embedding")
    if table is not None:
        side = isqrt(table[1] - 1)
        pairs["vision_config.image_size"] = (
            node["encoder"]["image_size"], side * int(node["encoder"]["patch"])
        )  # fmt: skip
    words = shapes.get("language_model.model.embed_tokens.weight") or shapes.get(
        "language_model.model.tok_embeddings.weight"
    )
    if words is not None:
        pairs["llm_config.vocab_size"] = (node["llm"]["config"]["vocab_size"], words[0])
    for part, key in (("vision_model", "use_backbone_lora"), ("language_model", "use_llm_lora")):
        ranks = {
            shape[0]
            for name, shape in shapes.items()
            if name.startswith(part) and name.endswith(".lora_A.default.weight")
        }
        found = ranks.pop() if len(ranks) == 1 else sorted(ranks) or 0
        pairs[key] = (config.get(key, 0), found)
    agree(pairs, source=folder)


def _entry(target: str, node: Mapping[str, Any], internlm2: bool) -> TensorSource:
    """The source of ``target``, with the names that tensors have without adapters."""
    if target.startswith("encoder.model."):
        key, part = published_key(target.removeprefix("encoder.model."))
        key = f"vision_model.{key}"
        return TensorSource((key,)) if part is None else TensorSource((key,), qkv_rows(part))
    if target.startswith("bridge.mlp."):
        return TensorSource((target.replace("bridge.mlp.", "mlp1.", 1),))
    own = target.removeprefix("llm.model.")
    if internlm2:
        return llama_entry(own, node["llm"]["config"], prefix="language_model.")
    return TensorSource((f"language_model.{own}",))


def _merged(entry: TensorSource, stored_names: Mapping[str, str]) -> TensorSource:
    """``entry`` with the stored names, and with the adapter of its tensor merged if there is one."""
    if len(entry.keys) > 1:  # experts, for which the published trainer makes no adapters
        return TensorSource(tuple(stored_names.get(key, key) for key in entry.keys), entry.make)
    (name,) = entry.keys
    base, adapters = stored_names.get(name, name), _lora_keys(name)
    if not all(key in stored_names for key in adapters):
        return TensorSource((base,), entry.make)
    keys = (base, *(stored_names[key] for key in adapters))
    return TensorSource(keys, _after(merge_lora(LORA_SCALE), entry.make))


def _lora_keys(name: str) -> tuple[str, str]:
    stem = re.sub(r"\.weight$", "", name)
    return f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"


def _after(first: Callable[..., Tensor], then: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def make(*tensors: Tensor) -> Tensor:
        return then(first(*tensors))

    return make
