"""Language models and their tokenizers."""

from hdvl.llms.causal_lm import CausalLM
from hdvl.llms.gptq_kernels import GPTQKernels
from hdvl.llms.qwen1 import Qwen1Rules
from hdvl.llms.qwen_tiktoken import load_qwen_tokenizer
from hdvl.llms.tokenizers import build_tokenizer, load_tokenizer, read_texts, save_tokenizer

__all__ = [
    "CausalLM",
    "GPTQKernels",
    "Qwen1Rules",
    "build_tokenizer",
    "load_qwen_tokenizer",
    "load_tokenizer",
    "read_texts",
    "save_tokenizer",
]
