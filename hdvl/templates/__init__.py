"""Templates that write conversations as text and ids, and codecs that write boxes as text."""

from hdvl.protocols import Decoded
from hdvl.templates.base import IMAGE, ImageSlots
from hdvl.templates.boxes import Absolute, Norm1000, Unit
from hdvl.templates.encode import IGNORED, Encoded, encode
from hdvl.templates.node import node_of
from hdvl.templates.tokenizer_template import TokenizerTemplate
from hdvl.templates.tokens import stop_ids
from hdvl.templates.turns import ChatML, Hermes2, Plain, TurnTemplate, Xverse

__all__ = [
    "IGNORED",
    "IMAGE",
    "Absolute",
    "ChatML",
    "Decoded",
    "Encoded",
    "Hermes2",
    "ImageSlots",
    "Norm1000",
    "Plain",
    "TokenizerTemplate",
    "TurnTemplate",
    "Unit",
    "Xverse",
    "encode",
    "node_of",
    "stop_ids",
]
