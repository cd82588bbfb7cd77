"""Native resolution: one view in the proportions of the image."""

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Literal, get_args

from hdvl.geometry import Size, TilePlan
from hdvl.tilers.base import Cutter, FromModel, check_choice, check_image

Rounding = Literal["nearest", "fill"]


@dataclass(frozen=True, kw_only=True)
class Native(Cutter):
    """Resizes an image to one view of about its own proportions, with sides that are multiples of a number.

    The encoder must support views of any such size (``Encoder.grid_for``).

    Attributes:
        tile_size: the encoder's tile size, which is not the size of the view.
        multiple_of: the sides of the view are multiples of it; a cell is a square of this side.
        min_patches: the fewest cells of a view with ``rounding="nearest"``.
        max_patches: the most cells of a view.
        rounding: how the size is chosen. ``nearest``: each side is rounded to the nearest multiple; images
            of more than ``max_patches`` cells are shrunk and those of fewer than ``min_patches`` enlarged
            (Wang et al., Qwen2-VL, arXiv 2409.12191; LFM2-VL). ``fill``: the image is scaled to the
            largest size of at most ``max_patches`` cells, each side rounded up (Tschannen et al.,
            SigLIP 2 NaFlex, arXiv 2502.14786).
    """

    tile_size: FromModel = 512
    multiple_of: FromModel = 16
    min_patches: int = 1
    max_patches: int = 1024
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiple_of is None:
            self._set_default("multiple_of", 16)
        check_choice("rounding", self.rounding, get_args(Rounding))
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")
        if not 1 <= self.min_patches <= self.max_patches:
            raise ValueError(
                f"min_patches must be in 1..max_patches={self.max_patches}, got {self.min_patches}"
            )

    @property
    def max_tiles(self) -> int:
        return 1

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels: one view of the whole image.

        >>> Native(multiple_of=16, max_patches=1024).plan(500, 300).sizes
        ((496, 304),)
        >>> Native(multiple_of=16, max_patches=256).plan(4000, 1000).sizes
        ((512, 128),)
        >>> Native(multiple_of=16, max_patches=256, rounding="fill").plan(40, 30).sizes
        ((288, 224),)
        """
        check_image(width, height)
        resized = nearest_size if self.rounding == "nearest" else largest_size
        size = resized((width, height), self.multiple_of, self.min_patches, self.max_patches)
        return TilePlan.of_view(width, height, size)


def nearest_size(
    size: Size, multiple: int, least: int, most: int, limit: int | None = None
) -> Size:
    """Return the size in multiples of ``multiple`` nearest to ``size``, of ``least`` to ``most`` cells.

    If the shorter side is one cell, it cannot be shrunk any further, and the size may have more than
    ``most`` cells. The longer side is then shortened until there are ``limit`` cells (``most`` unless
    given).
    """
    width, height = size
    new = [max(multiple, round(side / multiple) * multiple) for side in size]
    area = multiple * multiple
    if new[0] * new[1] > most * area:
        shrink = sqrt(height * width / (most * area))
        new = [max(multiple, floor(side / shrink / multiple) * multiple) for side in size]
    elif new[0] * new[1] < least * area:
        grow = sqrt(least * area / (height * width))
        new = [ceil(side * grow / multiple) * multiple for side in size]
    cells = limit or most
    if new[0] * new[1] > cells * area:
        shorter = min(new) // multiple
        new = [min(side, max(1, cells // shorter) * multiple) for side in new]
    return new[0], new[1]


def largest_size(size: Size, multiple: int, least: int, most: int) -> Size:
    """Return the largest size of at most ``most`` cells in the proportions of ``size``.

    The scale is found by bisection to the same precision as in the reference implementation.
    """
    precision = 1e-5

    def scaled(scale: float) -> Size:
        width, height = (max(multiple, ceil(side * scale / multiple) * multiple) for side in size)
        return width, height

    low, high = precision / 10, 100.0
    while high - low >= precision:
        middle = (low + high) / 2
        width, height = scaled(middle)
        fits = (width // multiple) * (height // multiple) <= most
        low, high = (middle, high) if fits else (low, middle)
    return scaled(low)
