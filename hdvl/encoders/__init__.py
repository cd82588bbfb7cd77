"""Encoders: tiles in, patch features out. A library is imported only by the encoder that needs it."""

from hdvl.encoders.pixels import Normalise, normalise

__all__ = ["Normalise", "normalise"]
