"""Tilers: cut images of any size into views of sizes that the encoder supports."""

from hdvl.tilers.anyres import AnyRes
from hdvl.tilers.base import Backend, Resample
from hdvl.tilers.dynamic_ratio import DynamicRatio
from hdvl.tilers.longest_edge import LongestEdge
from hdvl.tilers.native import Native
from hdvl.tilers.native_tiles import NativeTiles
from hdvl.tilers.sliding_window import SlidingWindow
from hdvl.tilers.squash import Squash

__all__ = [
    "AnyRes",
    "Backend",
    "DynamicRatio",
    "LongestEdge",
    "Native",
    "NativeTiles",
    "Resample",
    "SlidingWindow",
    "Squash",
]
