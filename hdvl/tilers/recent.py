"""Keeps the tiles of the images that were cut last, so that several questions about one cut it once."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hdvl.protocols import Tiler, Tiles

KEPT = 4
"""Images whose tiles are kept by default; those of a large image take about 10 MB."""


@dataclass
class _Cut:
    """An image, its tiler, and its tiles once they are cut, by the thread that holds ``lock``."""

    tiler: Tiler
    image: bytes
    tiles: Tiles | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class RecentTiles:
    """Cuts images, and returns the tiles of an earlier call with the same bytes and an equal tiler.

    Only images that are given as bytes are kept: a file may change, and so may the pixels of an image in
    memory. Threads that ask for one image at the same time wait for the first of them. The tiles are shared
    and must not be written to. A copy in another process starts empty.

    Args:
        count: the number of images whose tiles are kept.
    """

    def __init__(self, count: int = KEPT) -> None:
        if count < 1:
            raise ValueError(f"count of images must be at least 1, got {count}")
        self.count = count
        self._kept: deque[_Cut] = deque(maxlen=count)
        self._lock = threading.Lock()

    def __call__(self, tiler: Tiler, image: Any) -> Tiles:
        """Return the tiles of ``image``; raises what ``tiler`` raises."""
        if not isinstance(image, bytes):
            return tiler(image)
        with self._lock:
            known = (one for one in self._kept if one.image == image and one.tiler == tiler)
            cut = next(known, None)
            if cut is None:
                cut = _Cut(tiler, image)
                self._kept.append(cut)
        with cut.lock:
            if cut.tiles is None:
                cut.tiles = tiler(image)
            return cut.tiles

    def __reduce__(self) -> tuple[type["RecentTiles"], tuple[int]]:
        return RecentTiles, (self.count,)
