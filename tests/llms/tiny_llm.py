"""A causal LM of any transformers type, small enough for a test."""

from typing import Any

from hdvl.llms import CausalLM, build_tokenizer


def make(model_type: str = "qwen2", *, tokenizer_size: int = 300, **numbers: Any) -> CausalLM:
    config = {
        "model_type": model_type,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        **numbers,
    }
    return CausalLM.from_config(config=config, tokenizer=build_tokenizer(vocab_size=tokenizer_size))
