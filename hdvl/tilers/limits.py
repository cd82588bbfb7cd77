"""Tilers with another limit of tiles: one model answers at 1, 4, 12 or 40 tiles of an image."""

from dataclasses import fields, replace
from math import isqrt
from typing import Any, cast

from hdvl.protocols import Tiler
from hdvl.tilers.anyres import AnyRes
from hdvl.tilers.longest_edge import LongestEdge
from hdvl.tilers.native import Native
from hdvl.tilers.squash import Squash


def with_max_tiles(tiler: Tiler, max_tiles: int) -> Tiler:
    """Return ``tiler`` with at most ``max_tiles`` windows of an image, not counting the thumbnail.

    The limit takes the place of the tiler's own, which may be lower or higher. Tilers of one view are
    returned as they are. :class:`~hdvl.tilers.LongestEdge` gets the longest edge of the largest square
    grid within the limit, and :class:`~hdvl.tilers.AnyRes` a grid of one tile where it has none so small.

    >>> from hdvl.tilers import SlidingWindow
    >>> with_max_tiles(SlidingWindow(max_tiles=64), 4).plan(4000, 3000).count
    5

    Raises:
        ValueError: ``max_tiles`` is below 1, or the tiler has no limit that could be changed.
    """
    if isinstance(max_tiles, bool) or not isinstance(max_tiles, int) or max_tiles < 1:
        raise ValueError(f"max_tiles must be a whole number of at least 1, got {max_tiles!r}")
    if isinstance(tiler, Squash | Native):
        return tiler
    if isinstance(tiler, LongestEdge):
        return replace(tiler, longest_edge=isqrt(max_tiles) * tiler.tile_size)
    if isinstance(tiler, AnyRes) and all(rows * cols > max_tiles for rows, cols in tiler.grids):
        return replace(tiler, max_tiles=max_tiles, grids=((1, 1), *tiler.grids))
    names = [field.name for field in fields(cast(Any, tiler))] if _is_dataclass(tiler) else []
    if "max_tiles" not in names:
        raise ValueError(
            f"max_tiles of a question needs a tiler with an argument of this name, "
            f"{type(tiler).__name__} has none"
        )
    changes: dict[str, Any] = {"max_tiles": max_tiles}
    if "min_tiles" in names:
        changes["min_tiles"] = min(cast(Any, tiler).min_tiles, max_tiles)
    return cast(Tiler, replace(cast(Any, tiler), **changes))


def _is_dataclass(tiler: Tiler) -> bool:
    return hasattr(type(tiler), "__dataclass_fields__")
