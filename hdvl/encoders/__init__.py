"""Encoders: compute patch features of tiles. Each module imports only the library that it needs."""

from hdvl.encoders.chunk import encode_in_chunks
from hdvl.encoders.conv_stem import ConvStem
from hdvl.encoders.fused import FusedEncoder
from hdvl.encoders.intern_vit import InternViT
from hdvl.encoders.open_clip import OpenCLIPEncoder
from hdvl.encoders.pixels import Normalise, normalise
from hdvl.encoders.qwen_vit import QwenViT
from hdvl.encoders.timm import TimmEncoder
from hdvl.encoders.transformers import TransformersEncoder

__all__ = [
    "ConvStem",
    "FusedEncoder",
    "InternViT",
    "Normalise",
    "OpenCLIPEncoder",
    "QwenViT",
    "TimmEncoder",
    "TransformersEncoder",
    "encode_in_chunks",
    "normalise",
]
