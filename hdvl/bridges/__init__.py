"""Bridges: from encoder features to LLM embeddings."""

from hdvl.bridges.mlp import MLP
from hdvl.bridges.pixel_shuffle_mlp import PixelShuffleMLP
from hdvl.bridges.pooling import Pooling
from hdvl.bridges.resampler import Resampler

__all__ = ["MLP", "PixelShuffleMLP", "Pooling", "Resampler"]
