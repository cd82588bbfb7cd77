"""A single tile, or a fixed grid of tiles, to which images are fitted in one of several ways."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hdvl.geometry import NO_RECT, Rect, Size, Thumbnail, TilePlan
from hdvl.tilers.base import Cutter, FromModel, centred, check_choice, check_image, check_thumbnail

Fit = Literal["squash", "pad", "pad_image", "crop"]


@dataclass(frozen=True, kw_only=True)
class Squash(Cutter):
    """Fits every image to the same grid of tiles.

    Attributes:
        fit: how an image is fitted to the canvas. ``squash``: resized to fill it, without keeping
            proportions (Qwen-VL, InternVL 1.2; with a grid of 2 x 2 and a thumbnail, Monkey). ``pad``:
            resized in proportion and centred on ``padding``. ``pad_image``: padded to the proportions of
            the canvas, then resized (LLaVA-1.5, with ``padding=mean``). ``crop``: the shortest edge is
            resized to the canvas and the centre is cropped (CLIP, and LLaVA-1.5 in transformers).
        grid: (rows, cols) of tiles.
        thumbnail: whether a thumbnail stands before or after the tiles; ``None`` for no thumbnail. A grid
            of one tile has none.
        shortest_edge: with ``fit="crop"`` and one tile, the length in pixels to which the shortest edge is
            resized before cropping; the side of the tile unless given.
    """

    tile_size: FromModel = 448
    fit: Fit = "squash"
    grid: Sequence[int] = (1, 1)
    thumbnail: Thumbnail = None
    shortest_edge: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("fit", self.fit, get_args(Fit))
        check_thumbnail(self.thumbnail)
        object.__setattr__(self, "grid", tuple(self.grid))
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid must be (rows, cols) of at least 1 each, got {self.grid}")
        if self.shortest_edge is None:
            return
        if self.shortest_edge < 1 or self.fit != "crop" or self.max_tiles > 1:
            raise ValueError(
                "shortest_edge must be at least 1 pixel, of fit=crop with a grid of one tile, got "
                f"shortest_edge={self.shortest_edge}, fit={self.fit} and grid={self.grid}"
            )

    @property
    def max_tiles(self) -> int:
        return self.grid[0] * self.grid[1]

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> Squash(tile_size=448).plan(1024, 768).boxes
        ((0.0, 0.0, 1024.0, 768.0),)

        >>> plan = Squash(tile_size=448).plan(1024, 768)
        >>> plan.to_source(224, 224)  # the middle of the tile is the middle of the image
        (512.0, 384.0)

        >>> Squash(tile_size=448, fit="pad_image").plan(1024, 768).boxes
        ((0.0, -128.0, 1024.0, 896.0),)

        >>> Squash(tile_size=448, fit="crop").plan(1024, 768).content
        (-74, 0, 523, 448)
        """
        check_image(width, height)
        rows, cols = self.grid
        canvas = (cols * self.tile_size, rows * self.tile_size)
        frame, content = fitted(self.fit, (width, height), canvas)
        if self.shortest_edge is not None:
            edge = self.shortest_edge
            x0, y0, x1, y1 = fitted("crop", (width, height), (edge, edge))[1]
            content = centred((x1 - x0, y1 - y0), canvas)
        plan = TilePlan.of_grid(
            width,
            height,
            (rows, cols),
            tile_size=self.tile_size,
            thumbnail=self.thumbnail if self.max_tiles > 1 else None,
            content=content,
        )
        if frame is not None:
            plan = replace(plan, frame=frame)
        if plan.thumbnail is None:
            return plan
        _, place = fitted(self.fit, (width, height), (self.tile_size, self.tile_size))
        return replace(plan, thumbnail_content=None if place == NO_RECT else place)


def fitted(fit: Fit, size: Size, canvas: Size) -> tuple[Rect | None, Rect]:
    """Return the frame of an image of ``size``, and the rectangle of the canvas that the frame fills."""
    (width, height), (wide, high) = size, canvas
    if fit == "squash":
        return None, NO_RECT
    if fit == "pad_image":
        # The frame is the smallest rectangle in the canvas' proportions that contains the image.
        frame = max(width, height * wide // high), max(height, width * high // wide)
        left, top = (frame[0] - width) // 2, (frame[1] - height) // 2
        return (-left, -top, frame[0] - left, frame[1] - top), NO_RECT
    if fit == "pad":
        limited_by_width = wide * height <= high * width
    else:
        limited_by_width = wide * height >= high * width
    if limited_by_width:
        new = (wide, max(1, wide * height // width))
    else:
        new = (max(1, high * width // height), high)
    return None, centred(new, canvas)
