"""How conversations and boxes are written for a language model."""

from hdvl.templates.boxes import Decoded, Norm1000
from hdvl.templates.encode import IGNORED, Encoded, encode
from hdvl.templates.turns import ChatML, Hermes2, TurnTemplate

__all__ = [
    "IGNORED",
    "ChatML",
    "Decoded",
    "Encoded",
    "Hermes2",
    "Norm1000",
    "TurnTemplate",
    "encode",
]
