"""Mergers: combine the tiles of one image into one sequence of tokens."""

from hdvl.mergers.concat import Concat
from hdvl.mergers.overlap_blend import OverlapBlend
from hdvl.mergers.spatial import Spatial

__all__ = ["Concat", "OverlapBlend", "Spatial"]
