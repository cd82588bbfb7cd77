"""Tilers: an image of any size becomes tiles that an encoder can take."""

from hdvl.tilers.anyres import AnyRes
from hdvl.tilers.base import Resample
from hdvl.tilers.dynamic_ratio import DynamicRatio
from hdvl.tilers.sliding_window import SlidingWindow
from hdvl.tilers.squash import Squash

__all__ = ["AnyRes", "DynamicRatio", "Resample", "SlidingWindow", "Squash"]
