"""Base class of the tilers that add a thumbnail to a grid of windows."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from hdvl.geometry import Size, Thumbnail, TilePlan
from hdvl.tilers.base import Cutter, centred, check_choice, check_thumbnail

ThumbnailFit = Literal["squash", "pad", "aspect"]


@dataclass(frozen=True, kw_only=True)
class ThumbnailCutter(Cutter):
    """Base of the tilers that add a thumbnail of the whole image to their windows.

    Attributes:
        thumbnail: whether the thumbnail stands before or after the windows; ``None`` for no thumbnail.
        thumbnail_size: side of the thumbnail in pixels, ``tile_size`` unless given. The encoder must
            support this size.
        thumbnail_fit: ``squash``: the image is resized to a square, without keeping proportions. ``pad``:
            it is resized in proportion and centred on a square. ``aspect``: the longest edge has
            ``thumbnail_size`` pixels, and the other edge follows from the proportions of the image.
        thumbnail_multiple: with ``thumbnail_fit=aspect``, both sides are multiples of this number.
    """

    thumbnail: Thumbnail = None
    thumbnail_size: int | None = None
    thumbnail_fit: ThumbnailFit = "squash"
    thumbnail_multiple: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_thumbnail(self.thumbnail)
        check_choice("thumbnail_fit", self.thumbnail_fit, get_args(ThumbnailFit))
        if self.thumbnail_size is not None and self.thumbnail_size < 1:
            raise ValueError(f"thumbnail_size must be at least 1, got {self.thumbnail_size}")
        if self.thumbnail_multiple < 1 or self._side() % self.thumbnail_multiple:
            raise ValueError(
                f"thumbnail_multiple must divide the thumbnail's side of {self._side()} pixels, got "
                f"{self.thumbnail_multiple}"
            )

    def _side(self) -> int:
        return self.thumbnail_size or self.tile_size

    def with_thumbnail(self, plan: TilePlan) -> TilePlan:
        """Return ``plan`` with the size and the proportions of its thumbnail, if it has one."""
        side = self._side()
        if plan.thumbnail is None or (self.thumbnail_fit == "squash" and side == plan.tile_size):
            return plan
        size: Size = (side, side)
        if self.thumbnail_fit == "squash":
            return replace(plan, thumbnail_size=size)
        longest = max(plan.width, plan.height)
        fitted = (max(1, plan.width * side // longest), max(1, plan.height * side // longest))
        if self.thumbnail_fit == "pad":
            return replace(plan, thumbnail_size=size, thumbnail_content=centred(fitted, size))
        step = self.thumbnail_multiple
        width, height = (max(step, round(edge / step) * step) for edge in fitted)
        return replace(plan, thumbnail_size=(width, height))
