"""Tiny GGUF files, as llama.cpp's converter writes those of Llama models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from hdvl.llms import CausalLM

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    llm: CausalLM,
    file: Path,
    *,
    architecture: str = "llama",
    tokenizer: bool = True,
    quantised: bool = False,
    without: str = "",
) -> Path:
    """Write a Llama model and its byte-level tokenizer, without tensors whose name holds ``without``."""
    gguf = pytest.importorskip("gguf")
    config = llm.model.config
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer, llm.tokenizer)
    for name, value in llm.model.state_dict().items():
        stored = _stored_name(name)
        if not (without and without in stored):
            _add_tensor(writer, gguf, stored, _permuted(name, value, config), quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    special = set(tokenizer.all_special_tokens)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token in special else 1 for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_unk_token_id(tokenizer.pad_token_id)  # a key that the configuration of Llama ignores
    writer.add_chat_template(TEMPLATE)


def _stored_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    kind = rest.removesuffix(".weight")
    return f"blk.{layer}.{NAMES[kind]}.weight"


def _permuted(name: str, value: Tensor, config: Any) -> Any:
    """The rows of queries and keys in the order of llama.cpp, whose rotary pairs are neighbours."""
    for part, heads in (
        ("q_proj", config.num_attention_heads),
        ("k_proj", config.num_key_value_heads),
    ):
        if part in name:
            rows = value.reshape(heads, 2, len(value) // heads // 2, -1).swapaxes(1, 2)
            value = rows.reshape(value.shape)
    return value.detach().float().contiguous().numpy()


def _add_tensor(writer: Any, gguf: Any, name: str, value: np.ndarray, quantised: bool) -> None:
    if quantised and value.ndim == 2:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, value)
