"""InternLM2 (Cai et al., arXiv 2403.17297) and InternLM3 as Llama models, for InternVL.

Both compute the same function as a Llama. InternLM3 also has the names of a Llama. InternLM2 has other
names and stores queries, keys and values in one matrix, group by group: the queries that share a key, then
the key, then the value.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from einops import rearrange
from torch import Tensor

from hdvl.checkpoints.importers.mapping import TensorSource

_NAMES = (
    (r"model\.embed_tokens\.", "model.tok_embeddings."),
    (r"lm_head\.", "output."),
    (r"(model\.layers\.\d+\.)self_attn\.o_proj\.", r"\1attention.wo."),
    (r"(model\.layers\.\d+\.)self_attn\.[qkv]_proj\.", r"\1attention.wqkv."),
    (r"(model\.layers\.\d+\.)mlp\.gate_proj\.", r"\1feed_forward.w1."),
    (r"(model\.layers\.\d+\.)mlp\.up_proj\.", r"\1feed_forward.w3."),
    (r"(model\.layers\.\d+\.)mlp\.down_proj\.", r"\1feed_forward.w2."),
    (r"(model\.layers\.\d+\.)input_layernorm\.", r"\1attention_norm."),
    (r"(model\.layers\.\d+\.)post_attention_layernorm\.", r"\1ffn_norm."),
)


def as_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an InternLM2 configuration to that of a Llama."""
    biased = bool(config.get("bias", False))
    return {**config, "model_type": "llama", "attention_bias": biased, "mlp_bias": False}


def internlm3_as_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an InternLM3 configuration to that of a Llama, which has one switch for all attention biases.

    Raises:
        ValueError: only one of the output and the queries, keys and values has biases.
    """
    biased, outer = bool(config.get("qkv_bias", False)), bool(config.get("bias", False))
    if biased != outer:
        raise ValueError(
            f"InternLM3 must have qkv_bias equal to bias to be computed as a Llama, got "
            f"qkv_bias={biased} and bias={outer}"
        )
    return {**config, "model_type": "llama", "attention_bias": outer, "mlp_bias": outer}


def llama_entry(target: str, config: Mapping[str, Any], *, prefix: str) -> TensorSource:
    """The source of tensor ``target`` of the Llama; stored names start with ``prefix``."""
    name = target
    for pattern, stored in _NAMES:
        name = re.sub("^" + pattern, stored, name)
    part = re.search(r"\.([qkv])_proj\.", target)
    if part is None:
        return TensorSource((prefix + name,))
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    return TensorSource((prefix + name,), _of_groups(part[1], groups, heads // groups))


def _of_groups(part: str, groups: int, queries: int) -> Callable[[Tensor], Tensor]:
    chosen = {
        "q": slice(0, queries),
        "k": slice(queries, queries + 1),
        "v": slice(queries + 1, queries + 2),
    }[part]

    def make(value: Tensor) -> Tensor:
        grouped = rearrange(value, "(g p d) ... -> g p d ...", g=groups, p=queries + 2)
        rows: Tensor = rearrange(grouped[:, chosen], "g p d ... -> (g p d) ...")
        return rows

    return make
