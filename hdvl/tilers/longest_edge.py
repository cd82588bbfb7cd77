"""Tiling of Idefics3 and SmolVLM: the longest edge is resized to a given length."""

from dataclasses import dataclass, replace

from hdvl.geometry import Size, Thumbnail, TilePlan
from hdvl.tilers.base import Cutter, FromModel, check_image, check_thumbnail


@dataclass(frozen=True, kw_only=True)
class LongestEdge(Cutter):
    """Resizes the longest edge of an image to ``longest_edge``, rounds both sides up to tiles and cuts them.

    The image is resized twice, as published: first in proportion, so that its longest edge has
    ``longest_edge`` pixels (small images are enlarged), then to multiples of ``tile_size``. The thumbnail
    is resized from the canvas. An image of one tile has only the thumbnail.

    Published as Idefics3 (Laurençon et al., arXiv 2408.12637) and SmolVLM (Marafioti et al., arXiv
    2504.05299). ::

        1000 x 600, longest_edge 1456, tile_size 364:
        resized to 1456 x 874, then to 1456 x 1092: 3 rows x 4 cols and the thumbnail

    Attributes:
        longest_edge: pixels of the longest edge after the first resizing.
        max_edge: upper limit of the longest edge in pixels, applied after ``longest_edge``.
        thumbnail: whether the thumbnail stands before or after the windows.
        split: whether the image is cut into windows; if false there is only the thumbnail.
    """

    tile_size: FromModel = 364
    longest_edge: int = 1456
    max_edge: int = 4096
    thumbnail: Thumbnail = "last"
    split: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_thumbnail(self.thumbnail)
        if self.thumbnail is None:
            raise ValueError("thumbnail must be first or last for this tiler, got null")
        for name in ("longest_edge", "max_edge"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def max_tiles(self) -> int:
        side = -(-min(self.longest_edge, self.max_edge) // self.tile_size)
        return side * side if self.split else 1

    def plan(self, width: int, height: int) -> TilePlan:
        """Return the plan for an image of ``width`` x ``height`` pixels.

        >>> plan = LongestEdge().plan(1000, 600)
        >>> plan.steps, plan.canvas, plan.rows, plan.cols, plan.count
        (((1456, 874),), (1456, 1092), 3, 4, 13)
        >>> LongestEdge(longest_edge=364).plan(1000, 600).views
        (View(box=(0.0, 0.0, 1000.0, 600.0), size=(364, 364), row=None, col=None),)
        """
        check_image(width, height)
        first = _limited(_in_proportion((width, height), self.longest_edge), self.max_edge)
        canvas = self._whole_tiles(first) if self.split else (self.tile_size, self.tile_size)
        rows, cols = canvas[1] // self.tile_size, canvas[0] // self.tile_size
        if rows * cols == 1:
            rows = cols = 0
        plan = TilePlan.of_grid(
            width, height, (rows, cols), tile_size=self.tile_size, thumbnail=self.thumbnail
        )
        return replace(
            plan, canvas=canvas, content=(0, 0, *canvas), steps=(first,), thumbnail_source="canvas"
        )

    def _whole_tiles(self, size: Size) -> Size:
        """Return both sides rounded up to whole tiles; the shorter follows from the rounded longer one."""
        width, height = size
        ratio = width / height
        if width >= height:
            width = self._ceil(width)
            return width, self._ceil(max(1, int(width / ratio)))
        height = self._ceil(height)
        return self._ceil(max(1, int(height * ratio))), height

    def _ceil(self, side: int) -> int:
        return -(-side // self.tile_size) * self.tile_size


def _in_proportion(size: Size, longest: int) -> Size:
    """Return the size with longest edge ``longest``; the other edge is rounded to an even number."""
    width, height = size
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(1, other + other % 2)
    other = int(longest * ratio)
    return max(1, other + other % 2), longest


def _limited(size: Size, most: int) -> Size:
    width, height = size
    ratio = width / height
    if width >= height and width > most:
        return most, max(1, int(most / ratio))
    if height > width and height > most:
        return max(1, int(most * ratio)), most
    return width, height
