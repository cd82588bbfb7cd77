"""Language models and their tokenizers."""

from hdvl.llms.causal_lm import CausalLM
from hdvl.llms.tokenizers import build_tokenizer, load_tokenizer, read_texts, save_tokenizer

__all__ = ["CausalLM", "build_tokenizer", "load_tokenizer", "read_texts", "save_tokenizer"]
