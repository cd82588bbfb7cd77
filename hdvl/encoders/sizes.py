"""Sizes of images that an encoder supports, and their grids of patches."""

from dataclasses import dataclass

from hdvl.protocols import Grid, Size


@dataclass(frozen=True)
class Sizes:
    """The sizes of images that an encoder supports.

    Attributes:
        name: name of the encoder, for messages.
        tile_size: side of a tile in pixels, which is always supported.
        grid: (rows, cols) of patches of a tile.
        patch: (rows, columns) of pixels of a patch, if images of any multiples are supported; otherwise
            ``None``.
    """

    name: str
    tile_size: int
    grid: Grid
    patch: tuple[int, int] | None

    def grid_for(self, size: Size) -> Grid:
        """Return (rows, cols) of the patches of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: the encoder does not support this size.
        """
        width, height = size
        if (width, height) == (self.tile_size, self.tile_size):
            return self.grid
        if self.patch is None:
            raise ValueError(
                f"images must be tile_size={self.tile_size} pixels square, the only size that {self.name} "
                f"takes, got {width} x {height} (width x height); give tiler and encoder the same tile_size"
            )
        down, across = self.patch
        if min(width, height) < 1 or width % across or height % down:
            raise ValueError(
                f"images must be multiples of {across} x {down} pixels (width x height) for {self.name}, "
                f"got {width} x {height}; choose the tiler's sizes accordingly"
            )
        return height // down, width // across
