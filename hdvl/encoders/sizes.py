"""Which sizes of images an encoder takes, and the grid of patches of each."""

from dataclasses import dataclass

from hdvl.protocols import Grid, Size


@dataclass(frozen=True)
class Sizes:
    """Tiles of ``tile_size`` square, which have ``grid`` patches; with ``patch`` any whole patches too.

    ``patch`` are (rows, columns) of pixels. Plain arithmetic: it may be asked for every image.
    """

    name: str
    tile_size: int
    grid: Grid
    patch: tuple[int, int] | None

    def grid_for(self, size: Size) -> Grid:
        """The (rows, cols) of patches of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: the encoder does not take this size.
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
                f"got {width} x {height}; choose the tiler's sizes so"
            )
        return height // down, width // across
