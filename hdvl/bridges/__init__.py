"""Bridges: from encoder features to LLM embeddings."""

from hdvl.bridges.mlp import MLP
from hdvl.bridges.pixel_shuffle_mlp import PixelShuffleMLP

__all__ = ["MLP", "PixelShuffleMLP"]
