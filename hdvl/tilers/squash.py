"""One view: the whole image squashed to one tile (Qwen-VL, InternVL 1.2)."""

from dataclasses import dataclass

from hdvl.geometry import TilePlan
from hdvl.tilers.base import Cutter, check_image


@dataclass(frozen=True, kw_only=True)
class Squash(Cutter):
    """The image resized to ``tile_size`` square, whatever its proportions."""

    tile_size: int = 448

    @property
    def max_tiles(self) -> int:
        return 1

    def plan(self, width: int, height: int) -> TilePlan:
        """One window that shows the whole image.

        >>> Squash(tile_size=448).plan(1024, 768).boxes
        ((0.0, 0.0, 1024.0, 768.0),)

        >>> plan = Squash(tile_size=448).plan(1024, 768)
        >>> plan.to_source(224, 224)  # the middle of the tile is the middle of the image
        (512.0, 384.0)
        """
        check_image(width, height)
        return TilePlan.of_grid(width, height, (1, 1), tile_size=self.tile_size)
