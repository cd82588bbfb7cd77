"""Weights of few bits: the linear layers of a language model, while the other parts keep their precision."""

from hdvl.quantisation.weights import KINDS, quantise_llm

__all__ = ["KINDS", "quantise_llm"]
