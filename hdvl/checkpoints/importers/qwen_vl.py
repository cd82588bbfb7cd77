"""Qwen-VL and models of its layout: one ``transformer`` with ``wte``, ``h``, ``ln_f`` and ``visual``.

Bai et al., arXiv 2308.12966. Belle-VL (https://github.com/LianjiaTech/BELLE) and CatVision
(https://huggingface.co/huizhang0110/CatVision) have the same layout around Qwen-14B and Qwen-72B.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from math import isqrt
from typing import Any

from torch import Tensor

from hdvl.bridges.resampler import check_table, sincos_table
from hdvl.checkpoints.importers.base import (
    CheckpointSource,
    Importer,
    agree,
    differing,
    one_folder,
    read_json,
    refuse_unsupported,
    required,
    tokenizer_and_image_id,
)
from hdvl.checkpoints.importers.llm_config import GENERATION
from hdvl.checkpoints.importers.mapping import TensorSource, qkv_rows, unchanged
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.importers.qwen_gptq import quantisation, quantised_part, quantised_weight
from hdvl.checkpoints.nodes import Node
from hdvl.encoders.qwen_vit import is_packed, published_key, repacked
from hdvl.llms.gptq import GPTQ_TENSORS

VISUAL = "transformer.visual."
_LLM = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_channels",
        "intermediate_size", "layer_norm_epsilon", "max_position_embeddings", "seq_length",
        "rotary_emb_base", "use_dynamic_ntk", "use_logn_attn")  # fmt: skip
_VISION = ("heads", "image_size", "image_start_id", "layers", "mlp_ratio", "output_dim",
           "patch_size", "width")  # fmt: skip
_FIXED = {"rotary_pct": 1.0, "no_bias": True, "scale_attn_weights": True}
"""Options of the published code that no published model changes, with their values."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(\w+)")
_LINEARS: dict[str, tuple[str, int | None]] = {
    "self_attn.q_proj": ("attn.c_attn", 0),
    "self_attn.k_proj": ("attn.c_attn", 1),
    "self_attn.v_proj": ("attn.c_attn", 2),
    "self_attn.o_proj": ("attn.c_proj", None),
    "mlp.gate_proj": ("mlp.w2", None),
    "mlp.up_proj": ("mlp.w1", None),
    "mlp.down_proj": ("mlp.c_proj", None),
}
"""Linear layers of Qwen2 -> the layer of Qwen-1, and which third of its rows (None: all of them)."""
_NORMS = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
_ALONE = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "lm_head.weight": "lm_head.weight",
}


class QwenVL(Importer):
    """Qwen-VL, Qwen-VL-Chat and Qwen-VL-Chat-Int4 folders.

    The chat model is recognised by ``chat_format`` in ``generation_config.json``, the quantised one by
    ``quantization_config``. Names of folders are not considered.
    """

    name = "qwen_vl"
    preset = "qwen_vl"
    licence = "other"
    hidden_size: int | None = None

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        """``model_type`` is qwen, there is a ``visual`` block, and the width is that of this model."""
        if config.get("model_type") != "qwen" or "visual" not in config:
            return False
        widths = {kind.hidden_size for kind in (BelleVL, CatVision)}
        width = config.get("hidden_size")
        return width == self.hidden_size if self.hidden_size else width not in widths

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        if "visual" not in config:
            raise ValueError(
                f"configuration of {folder} must have visual; it belongs to another model, of type "
                f"{config.get('model_type')!r}"
            )
        sizes = required(config, _LLM, source=folder)
        visual = required(config["visual"], _VISION, source=f"{folder} (visual)")
        _check_supported(config, folder)
        _check_shapes(sizes, visual, published.shapes, folder)
        settings = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
        bits = quantisation(config, folder)
        node = self.preset_node(self._preset(bits, settings))
        node["encoder"] |= _encoder(visual, published.shapes)
        node["tiler"]["tile_size"] = node["encoder"]["tile_size"]
        queries = published.shapes.get(f"{VISUAL}attn_pool.query")
        node["bridge"] |= {"heads": None} | ({} if queries is None else {"num_queries": queries[0]})
        slot = visual["image_start_id"] + 2
        tokenizer, known = tokenizer_and_image_id(folder, node["template"]["image_token"])
        if tokenizer is not None and known != slot:
            raise ValueError(
                f"tokenizer of {folder} must give {node['template']['image_token']} the id "
                f"visual.image_start_id + 2 = {slot}, it gives {known}; it belongs to another model"
            )
        node["llm"]["rules"] |= _rules(sizes)
        node["llm"] |= {
            "config": {**node["llm"]["config"], **_qwen2(sizes, config)},
            "tokenizer": tokenizer,
        }
        node["image_token_id"] = slot
        return node

    def _preset(self, bits: int | None, settings: Mapping[str, Any]) -> str | None:
        if bits is not None:
            return "qwen_vl_chat_int4"
        return "qwen_vl_chat" if settings.get("chat_format") == "chatml" else None

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        return {target: _entry(target, node, published) for target in targets}

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """Buffers that the published code computes, which some of its revisions stored."""
        return (
            r"transformer\.h\.\d+\.attn\.(masked_bias|bias|rotary_emb\.inv_freq|logn_tensor)",
            r"transformer\.(rotary_emb\.inv_freq|logn_tensor)",
        )


class BelleVL(QwenVL):
    """Belle-VL folders: Qwen-VL's layout around Qwen-14B-Chat."""

    name = "belle_vl"
    preset = "belle_vl"
    licence = "unknown"
    hidden_size = 5120

    def _preset(self, bits: int | None, settings: Mapping[str, Any]) -> None:
        return None


class CatVision(BelleVL):
    """CatVision folders: Qwen-VL's layout around Qwen-72B-Chat."""

    name = "catvision"
    preset = "catvision"
    hidden_size = 8192


def _check_supported(config: Mapping[str, Any], folder: object) -> None:
    pairs = {key: (config.get(key, value), value) for key, value in _FIXED.items()}
    refuse_unsupported(differing(pairs), source=folder)


def _check_shapes(
    sizes: Mapping[str, Any],
    visual: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    folder: object,
) -> None:
    """Compare numbers of the configuration with the shapes of the weights, as far as those are stored."""
    stored = {
        "vocab_size": (sizes["vocab_size"], "transformer.wte.weight", 0),
        "vocab_size (head)": (sizes["vocab_size"], "lm_head.weight", 0),
        "hidden_size": (sizes["hidden_size"], "transformer.wte.weight", 1),
        "intermediate_size / 2": (
            sizes["intermediate_size"] // 2,
            "transformer.h.0.mlp.w1.weight",
            0,
        ),
        "visual.output_dim": (visual["output_dim"], f"{VISUAL}attn_pool.query", 1),
        "visual.width": (visual["width"], f"{VISUAL}conv1.weight", 0),
        "visual.patch_size": (visual["patch_size"], f"{VISUAL}conv1.weight", 2),
    }
    pairs: dict[str, tuple[object, object]] = {
        name: (number, shapes[key][axis])
        for name, (number, key, axis) in stored.items()
        if len(shapes.get(key, ())) > axis
    }
    pairs["num_hidden_layers"] = (sizes["num_hidden_layers"], _layers(shapes, "transformer.h."))
    pairs["visual.layers"] = (visual["layers"], _layers(shapes, f"{VISUAL}transformer.resblocks."))
    agree(pairs, source=folder)
    if visual["output_dim"] != sizes["hidden_size"]:
        raise ValueError(
            f"visual.output_dim of {folder} must be hidden_size={sizes['hidden_size']}, got "
            f"{visual['output_dim']}"
        )


def _layers(shapes: Mapping[str, object], prefix: str) -> int:
    """The number of layers stored under ``prefix``: the highest index plus one."""
    numbers = [
        int(key.removeprefix(prefix).split(".")[0]) for key in shapes if key.startswith(prefix)
    ]
    return max(numbers, default=-1) + 1


def _encoder(visual: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, patch = visual["width"], visual["patch_size"]
    inner = shapes.get(f"{VISUAL}transformer.resblocks.0.mlp.c_fc.weight")
    found = {
        "width": width,
        "depth": visual["layers"],
        "heads": visual["heads"],
        "mlp_width": int(width * visual["mlp_ratio"]) if inner is None else inner[0],
        "patch": patch,
        "tile_size": visual["image_size"],
    }
    table = shapes.get(f"{VISUAL}positional_embedding")
    return found if table is None else found | {"image_size": isqrt(table[0]) * patch}


def _qwen2(sizes: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of Qwen2 for a Qwen-1 model, whose ``intermediate_size`` counts both gate and up."""
    return {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["hidden_size"],
        "num_hidden_layers": sizes["num_hidden_layers"],
        "num_attention_heads": sizes["num_attention_heads"],
        "num_key_value_heads": sizes["num_attention_heads"],
        "head_dim": sizes["kv_channels"],
        "intermediate_size": sizes["intermediate_size"] // 2,
        "max_position_embeddings": sizes["max_position_embeddings"],
        "rms_norm_eps": sizes["layer_norm_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes["rotary_emb_base"]},
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
    }


def _rules(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seq_length": sizes["seq_length"],
        "dynamic_ntk": sizes["use_dynamic_ntk"],
        "logn": sizes["use_logn_attn"],
    }


def _entry(target: str, node: Mapping[str, Any], published: Published) -> TensorSource:
    """The source of ``target``."""
    if target.startswith("encoder.model."):
        key = VISUAL + published_key(target.removeprefix("encoder.model."))
        return TensorSource(
            (key,),
            partial(repacked, heads=node["encoder"]["heads"]) if is_packed(key) else unchanged,
        )
    if target.startswith("bridge."):
        return _bridge_entry(target.removeprefix("bridge."), node, published)
    own = target.removeprefix("llm.model.")
    if own in _ALONE:
        return TensorSource((_ALONE[own],))
    found = _LAYER.fullmatch(own)
    assert found is not None, f"no rule for {target}"
    number, module, kind = found.groups()
    at = f"transformer.h.{number}."
    if module in _NORMS:
        return TensorSource((f"{at}{_NORMS[module]}.{kind}",))
    name, part = _LINEARS[module]
    if kind in GPTQ_TENSORS:
        return quantised_part(at + name, kind, part, zero_bias=part is None)
    if kind == "weight" and f"{at}{name}.qweight" in published.shapes:
        return quantised_weight(at + name, part, zero_bias=part is None)
    return TensorSource((f"{at}{name}.{kind}",), unchanged if part is None else qkv_rows(part))


def _bridge_entry(own: str, node: Mapping[str, Any], published: Published) -> TensorSource:
    pool = f"{VISUAL}attn_pool."
    if own == "proj.weight":  # stored for ``x @ proj``, so it is transposed
        return TensorSource((f"{VISUAL}proj",), _transposed)
    if own.startswith("ln_post."):
        return TensorSource((VISUAL + own,))
    if own == "pos_embed":
        if pool + own in published.shapes:
            return TensorSource((pool + own,), check_table)
        side = isqrt(node["bridge"]["num_queries"])  # not stored: computed by its formula
        return TensorSource((), partial(sincos_table, side, node["llm"]["config"]["hidden_size"]))
    return TensorSource((pool + own,))


def _transposed(value: Tensor) -> Tensor:
    return value.T.contiguous()
