"""Small models of many families, with weights large enough to make every fault visible."""

from typing import Any

import torch

from hdvl.llms import CausalLM

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 7},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 6},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6},
    "phi3": {"pad_token_id": 0},
    "gpt_neox": {},
    "gpt2": {},
    "bloom": {},
    "mamba": {},
    "olmo2": {},
    "cohere": {},
}


def make(family: str) -> CausalLM:
    torch.manual_seed(0)
    llm = CausalLM.from_config(config={"model_type": family, **SIZES, **FAMILIES[family]}).eval()
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter.shape[-1] ** -0.5)
    return llm


def recomputed(llm: CausalLM, prompt: torch.Tensor, count: int) -> list[int]:
    """The most likely ids after a prompt (s, e), each from a forward pass over the whole text."""
    ids, text = list[int](), prompt[None]
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(llm(text)[0, -1].argmax()))
            text = torch.cat([text, llm.embed(torch.tensor([ids[-1:]]))], 1)
    return ids
