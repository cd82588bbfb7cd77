"""Sliding windows: overlapping at the image's own resolution, or the grid of XVERSE-V."""

from dataclasses import dataclass
from math import ceil, gcd, isqrt
from typing import Literal, get_args

from hdvl.geometry import Thumbnail, TilePlan
from hdvl.tilers.base import FromModel, check_image
from hdvl.tilers.thumbnails import ThumbnailCutter

GridRule = Literal["native", "xverse"]
Axes = Literal["published", "natural"]


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(ThumbnailCutter):
    """Cuts windows every ``stride`` pixels from a canvas whose size is chosen by ``grid``.

    ``grid="native"`` keeps the resolution of the image: the canvas is the image with both sides rounded
    up to ``multiple_of`` (at least one tile). It is shrunk only if it would need more than ``max_tiles``
    windows. The last window of a row or column is moved back to the edge of the canvas::

        tile_size 224, stride 192, image 512 x 320, canvas 512 x 320: 2 rows, 3 cols

        x  0       192  224       288   416      512
           ├────────────┤          ╎     ╎        │
           ╎        ├────────────────────┤        │      window 1 starts at 192, 32 px into window 0
           ╎        ╎   ╎          ├──────────────┤      window 2 would start at 384 and is moved
                                                         back to 288 = 512 - 224

    ``grid="xverse"`` is the rule of XVERSE-V (https://github.com/xverse-ai/XVERSE-V-13B): both sides are
    rounded to whole tiles, at most ``max_tiles`` of them (9 as published), and the image is resized to
    them without keeping proportions. The tiles do not overlap. The published code swaps the axes, so that
    the number of rows follows from the width: ``axes="published"``. ``axes="natural"`` does not swap them.

    An image of one window has no thumbnail.

    Attributes:
        stride: distance in pixels between neighbouring windows. ``None``: six sevenths of ``tile_size``,
            or with ``grid="xverse"`` all of it.
        multiple_of: the sides of the canvas are multiples of it; usually the encoder's patch size. ``None``:
            in a model the side of a token if a tile holds a whole number of them, else that of a patch.
        max_tiles: the most windows of an image; the thumbnail is not counted.
        grid: how the canvas is chosen, ``native`` or ``xverse``.
        axes: whether ``xverse`` swaps the axes.
    """

    tile_size: FromModel = 224
    stride: FromModel = 192
    multiple_of: FromModel = 32
    max_tiles: int = 64
    thumbnail: Thumbnail = "first"
    grid: GridRule = "native"
    axes: Axes = "natural"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tiles < 1:
            raise ValueError(f"max_tiles must be at least 1, got {self.max_tiles}")
        if self.multiple_of is None:
            self._set_default("multiple_of", gcd(self.tile_size, 32))
        if self.stride is None:
            self._set_default("stride", self._default_stride())
        if not 1 <= self.stride <= self.tile_size:
            raise ValueError(
                f"stride must be in 1..tile_size={self.tile_size}, got {self.stride}; "
                f"use stride={self.tile_size} for tiles that do not overlap"
            )
        if self.grid not in get_args(GridRule):
            raise ValueError(f"grid must be one of {get_args(GridRule)}, got {self.grid!r}")
        if self.axes not in get_args(Axes):
            raise ValueError(f"axes must be one of {get_args(Axes)}, got {self.axes!r}")
        if self.grid == "xverse" and self.stride != self.tile_size:
            raise ValueError(
                f"grid=xverse cuts tiles that do not overlap, got stride={self.stride}; "
                f"use stride={self.tile_size}"
            )
        if self.grid == "native":
            self._check_multiple()

    def _default_stride(self) -> int:
        if self.grid == "xverse":
            return self.tile_size
        step = max(1, self.multiple_of)
        return max(step, 6 * self.tile_size // 7 // step * step)

    def step(self, tile_size: int, patch: int, factor: int) -> int | None:
        """Return the side of a token, or of a patch, whichever first divides a tile; else ``None``."""
        return next((side for side in (patch * factor, patch) if tile_size % side == 0), None)

    def _check_multiple(self) -> None:
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")
        for name, value in (("tile_size", self.tile_size), ("stride", self.stride)):
            if value % self.multiple_of:
                raise ValueError(
                    f"{name} must be a multiple of multiple_of={self.multiple_of} so that the "
                    f"features of overlapping windows line up, got {value}; use "
                    f"{value // self.multiple_of * self.multiple_of or self.multiple_of}, or the "
                    "patch size of the encoder as multiple_of, such as "
                    f"tiler.multiple_of={gcd(self.tile_size, self.stride, self.multiple_of)}"
                )

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> tiler = SlidingWindow(tile_size=224, stride=192, multiple_of=32)
        >>> plan = tiler.plan(512, 320)
        >>> plan.rows, plan.cols, plan.canvas, plan.count
        (2, 3, (512, 320), 7)
        >>> plan.windows
        ((0, 0), (192, 0), (288, 0), (0, 96), (192, 96), (288, 96))

        >>> xverse = SlidingWindow(grid="xverse", stride=224, axes="published", max_tiles=9)
        >>> plan = xverse.plan(640, 480)  # landscape, and yet more rows than columns
        >>> plan.rows, plan.cols, plan.canvas
        (3, 2, (448, 672))
        >>> plan.boxes[1]  # the first tile shows this part of the image
        (0.0, 0.0, 320.0, 160.0)
        """
        check_image(width, height)
        cut = self._native if self.grid == "native" else self._xverse
        return self.with_thumbnail(cut(width, height))

    def _native(self, width: int, height: int) -> TilePlan:
        canvas = self._canvas(width, height)
        xs, ys = (self._offsets(side) for side in canvas)
        return TilePlan(
            width=width,
            height=height,
            rows=len(ys),
            cols=len(xs),
            tile_size=self.tile_size,
            stride=self.stride,
            canvas=canvas,
            windows=tuple((x, y) for y in ys for x in xs),
            thumbnail=self.thumbnail if len(xs) * len(ys) > 1 else None,
        )

    def _canvas(self, width: int, height: int) -> tuple[int, int]:
        """Return the largest canvas in the image's proportions that ``max_tiles`` windows cover."""
        step = self.multiple_of
        full_size = tuple(max(self.tile_size, ceil(side / step) * step) for side in (width, height))
        if self._count(full_size[0]) * self._count(full_size[1]) <= self.max_tiles:
            return full_size[0], full_size[1]
        longer, shorter = max(width, height), min(width, height)

        def sides(steps: int) -> tuple[int, int]:
            # nearest multiple, in integers: 2 * steps * shorter / longer, halved and rounded
            other = (2 * steps * shorter + longer) // (2 * longer) * step
            return steps * step, max(self.tile_size, other)

        low, high = self.tile_size // step, max(full_size) // step
        while high - low > 1:  # low always fits, high never does
            middle = (low + high) // 2
            long_side, short_side = sides(middle)
            fits = self._count(long_side) * self._count(short_side) <= self.max_tiles
            low, high = (middle, high) if fits else (low, middle)
        long_side, short_side = sides(low)
        return (long_side, short_side) if width >= height else (short_side, long_side)

    def _count(self, side: int) -> int:
        return -(-(side - self.tile_size) // self.stride) + 1

    def _offsets(self, side: int) -> list[int]:
        last = side - self.tile_size
        return [min(index * self.stride, last) for index in range(self._count(side))]

    def _xverse(self, width: int, height: int) -> TilePlan:
        down, across = (width, height) if self.axes == "published" else (height, width)
        grid = self._fit(self._rounded(down), self._rounded(across))
        thumbnail = self.thumbnail if grid != (1, 1) else None
        return TilePlan.of_grid(width, height, grid, tile_size=self.tile_size, thumbnail=thumbnail)

    def _rounded(self, side: int) -> int:
        """Return the number of tiles along a side, at least one; half a tile is rounded down."""
        count, remainder = divmod(side, self.tile_size)
        return max(1, count + (2 * remainder > self.tile_size))

    def _fit(self, rows: int, cols: int) -> tuple[int, int]:
        """Return a grid of at most ``max_tiles``, by the published rules for 6 and 9 tiles."""
        most = self.max_tiles
        if rows * cols <= most:
            return rows, cols
        if rows == 1 or cols == 1:
            return (1, most) if rows == 1 else (most, 1)
        if most >= 2 and (rows == 2 or cols == 2):
            return (most // 2, 2) if cols == 2 else (2, most // 2)
        return isqrt(most), isqrt(most)
