"""Geometry of tiling: how an image of a given size is cut into views.

This module does not import torch, so that ``hdvl tile`` starts quickly. Its names are available in
``hdvl.protocols`` too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Grid = tuple[int, int]
"""(rows, cols) of patches or tokens, in raster order."""

Size = tuple[int, int]
"""(width, height) in pixels."""

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the source image; x1 and y1 are exclusive."""

Rect = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in whole pixels; x1 and y1 are exclusive."""

Thumbnail = Literal["first", "last"] | None

Layout = tuple[str | int, ...]
"""What the prompt holds for an image: pieces of text, and between them numbers of visual tokens."""

NO_RECT = (0, 0, 0, 0)


def token_count(layout: Layout) -> int:
    """Return the number of visual tokens of a layout.

    >>> token_count(("<row_1_col_1>", 64, "<global-img>", 64))
    128
    """
    return sum(piece for piece in layout if isinstance(piece, int))


@dataclass(frozen=True)
class View:
    """One rectangle of an image that is resized and passed to the encoder.

    Attributes:
        box: the rectangle in pixels of the source image; padding lies outside of the image.
        size: (width, height) in pixels that the encoder reads.
        row: row of the grid of windows, from 0; ``None`` for the thumbnail.
        col: column of the grid of windows, from 0; ``None`` for the thumbnail.
    """

    box: Box
    size: Size
    row: int | None = None
    col: int | None = None

    @property
    def is_thumbnail(self) -> bool:
        """Whether this view is the thumbnail, which shows the whole image."""
        return self.row is None


@dataclass(frozen=True)
class TilePlan:
    """How an image of a given size is cut into views. A plan is computed without reading pixels.

    The rectangle ``frame`` of the source image is resized to the rectangle ``content`` of the canvas. The
    rest of the canvas is padding; parts of ``content`` outside of the canvas are cropped. The windows are
    cut out of the canvas. In most plans they form a grid of ``rows`` x ``cols`` squares of ``tile_size``;
    a plan may also hold only some windows of a grid (:meth:`subset`), oblong windows, or no window. The
    thumbnail shows the whole frame in a size of its own.

    Attributes:
        width: width of the source image in pixels.
        height: height of the source image in pixels.
        rows: rows of the grid that the windows are taken from.
        cols: columns of that grid.
        tile_size: side of a square window in pixels; the longer side where windows are oblong.
        stride: distance in pixels between neighbouring windows.
        canvas: (width, height) in pixels.
        windows: top-left corners of the windows on the canvas, row by row.
        thumbnail: whether the thumbnail stands before or after the windows; ``None`` for no thumbnail.
        content: the rectangle of the canvas that the frame fills; the whole canvas unless given.
        window_sizes: (width, height) of each window; empty if all are squares of ``tile_size``.
        places: (row, col) of each window, from 0; empty if the windows form a complete grid.
        frame: the rectangle of the source image that is cut; ``None`` for the whole image. Parts of it
            outside of the image are padding.
        steps: sizes that the frame is resized to, one after another, before its final size.
        thumbnail_size: (width, height) of the thumbnail; a square of ``tile_size`` unless given.
        thumbnail_content: the rectangle of the thumbnail that the frame fills; ``None`` for all of it.
        thumbnail_source: what the thumbnail is resized from: the image, or the canvas with its padding.

    Raises:
        ValueError: the number of windows is not ``rows * cols`` and ``places`` does not list each of them.
    """

    width: int
    height: int
    rows: int
    cols: int
    tile_size: int
    stride: int
    canvas: Size
    windows: tuple[tuple[int, int], ...]
    thumbnail: Thumbnail = None
    content: Rect = field(default=NO_RECT)
    window_sizes: tuple[Size, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    frame: Rect | None = None
    steps: tuple[Size, ...] = ()
    thumbnail_size: Size | None = None
    thumbnail_content: Rect | None = None
    thumbnail_source: Literal["image", "canvas"] = "image"

    def __post_init__(self) -> None:
        if self.content == NO_RECT:
            object.__setattr__(self, "content", (0, 0, *self.canvas))
        if not self.places and len(self.windows) != self.rows * self.cols:
            raise ValueError(
                f"windows must number rows*cols={self.rows * self.cols}, got {len(self.windows)}; "
                "give places=(row, col) of each window where they are not the whole grid"
            )
        for name in ("places", "window_sizes"):
            values = getattr(self, name)
            if values and len(values) != len(self.windows):
                raise ValueError(
                    f"{name} must name each of the {len(self.windows)} windows, got {len(values)}"
                )

    @classmethod
    def of_grid(
        cls,
        width: int,
        height: int,
        grid: Grid,
        *,
        tile_size: int,
        thumbnail: Thumbnail = None,
        content: Rect = NO_RECT,
    ) -> "TilePlan":
        """Return a plan of ``grid`` = (rows, cols) adjacent windows that fill the canvas.

        >>> TilePlan.of_grid(640, 480, (1, 2), tile_size=448).windows
        ((0, 0), (448, 0))
        """
        rows, cols = grid
        return cls(
            width=width,
            height=height,
            rows=rows,
            cols=cols,
            tile_size=tile_size,
            stride=tile_size,
            canvas=(cols * tile_size, rows * tile_size),
            windows=tuple((c * tile_size, r * tile_size) for r in range(rows) for c in range(cols)),
            thumbnail=thumbnail,
            content=content,
        )

    @classmethod
    def of_view(
        cls,
        width: int,
        height: int,
        size: Size,
        *,
        content: Rect = NO_RECT,
        frame: Rect | None = None,
    ) -> "TilePlan":
        """Return a plan of one view of ``size`` = (width, height) that shows the whole frame.

        >>> TilePlan.of_view(640, 480, (320, 240)).views
        (View(box=(0.0, 0.0, 640.0, 480.0), size=(320, 240), row=0, col=0),)
        """
        longest = max(size)
        return cls(
            width=width,
            height=height,
            rows=1,
            cols=1,
            tile_size=longest,
            stride=longest,
            canvas=size,
            windows=((0, 0),),
            window_sizes=() if size[0] == size[1] else (size,),
            content=content,
            frame=frame,
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TilePlan":
        """Restore a plan from ``dataclasses.asdict``, whose tuples may be lists after a pass through JSON."""
        return cls(**{name: _as_tuples(value) for name, value in plain.items()})

    def for_copy(self, width: int, height: int) -> "TilePlan":
        """Return the plan of the same views for a copy of the image resized to ``width`` x ``height``."""
        if self.frame is None:
            return replace(self, width=width, height=height)
        old, new = (0, 0, self.width, self.height), (0, 0, width, height)
        (left, top), (right, bottom) = (
            _scaled(*corner, old, new) for corner in (self.frame[:2], self.frame[2:])
        )
        # A frame is at least one pixel wide and high, also after rounding.
        frame = (
            round(left), round(top), max(round(left) + 1, round(right)),
            max(round(top) + 1, round(bottom)),
        )  # fmt: skip
        return replace(self, width=width, height=height, frame=frame)

    def subset(self, windows: Sequence[int]) -> "TilePlan":
        """Return the plan with only some of its windows.

        Args:
            windows: increasing indices of the windows to keep.

        >>> plan = TilePlan.of_grid(640, 480, (2, 2), tile_size=448, thumbnail="last")
        >>> [(view.row, view.col) for view in plan.subset([1, 2]).views]
        [(0, 1), (1, 0), (None, None)]

        Raises:
            ValueError: an index is repeated, out of order or out of range.
        """
        chosen = tuple(windows)
        if list(chosen) != sorted(set(chosen) & set(range(len(self.windows)))):
            raise ValueError(
                f"windows must be increasing numbers in 0..{len(self.windows) - 1}, got {chosen}"
            )
        places = self.window_places
        return replace(
            self,
            windows=tuple(self.windows[index] for index in chosen),
            window_sizes=tuple(self.window_sizes[i] for i in chosen) if self.window_sizes else (),
            places=tuple(places[index] for index in chosen),
            # Without windows ``places`` is empty, which means a complete grid: one of 0 x 0.
            rows=self.rows if chosen else 0,
            cols=self.cols if chosen else 0,
        )

    @property
    def source_frame(self) -> Rect:
        """The rectangle of the source image that is cut."""
        return self.frame or (0, 0, self.width, self.height)

    @property
    def window_places(self) -> tuple[tuple[int, int], ...]:
        """(row, col) of each window, from 0."""
        all_places = ((row, col) for row in range(self.rows) for col in range(self.cols))
        return self.places or tuple(all_places)

    @property
    def is_grid(self) -> bool:
        """Whether the windows form a complete grid of squares of ``tile_size``, row by row."""
        all_places = tuple((row, col) for row in range(self.rows) for col in range(self.cols))
        square = all(size == (self.tile_size, self.tile_size) for size in self.window_sizes)
        return self.window_places == all_places and square

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(width, height) in pixels of each view, in order."""
        square = (self.tile_size, self.tile_size)
        local = self.window_sizes or (square,) * len(self.windows)
        thumbnail = self._thumbnail_size()
        if self.thumbnail == "first":
            return (thumbnail, *local)
        return (*local, thumbnail) if self.thumbnail == "last" else local

    @property
    def views(self) -> tuple[View, ...]:
        """All views in the order in which the encoder reads them."""
        places: list[tuple[int | None, int | None]] = list(self.window_places)
        if self.thumbnail_index is not None:
            places.insert(self.thumbnail_index, (None, None))
        return tuple(
            View(box=box, size=size, row=row, col=col)
            for box, size, (row, col) in zip(self.boxes, self.sizes, places, strict=True)
        )

    @property
    def count(self) -> int:
        """Number of views, including the thumbnail."""
        return len(self.windows) + (self.thumbnail is not None)

    @property
    def missing(self) -> int:
        """Number of windows of the grid that :meth:`subset` left out; 0 if no window is left."""
        return self.rows * self.cols - len(self.windows)

    @property
    def thumbnail_index(self) -> int | None:
        """Index of the thumbnail among the views; ``None`` without a thumbnail."""
        if self.thumbnail is None:
            return None
        return 0 if self.thumbnail == "first" else len(self.windows)

    @property
    def window_slice(self) -> slice:
        """Indices of the windows among the views."""
        start = 1 if self.thumbnail == "first" else 0
        return slice(start, start + len(self.windows))

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The rectangle of each view in pixels of the source image; padding lies outside of the image."""
        square = (self.tile_size, self.tile_size)
        sizes = self.window_sizes or (square,) * len(self.windows)
        local = [
            (*self.to_source(x, y), *self.to_source(x + width, y + height))
            for (x, y), (width, height) in zip(self.windows, sizes, strict=True)
        ]
        if self.thumbnail is None:
            return tuple(local)
        width, height = self._thumbnail_size()
        place = self.thumbnail_content or (0, 0, width, height)
        start = _scaled(0, 0, place, self.source_frame)
        thumbnail = (*start, *_scaled(width, height, place, self.source_frame))
        return (thumbnail, *local) if self.thumbnail == "first" else (*local, thumbnail)

    def _thumbnail_size(self) -> Size:
        return self.thumbnail_size or (self.tile_size, self.tile_size)

    def _repr_html_(self) -> str:
        """The windows on the canvas in the proportions of the image, and their number, for notebooks."""
        (width, height), (x0, y0, x1, y1) = self.canvas, self.content
        line = max(width, height) / 320
        sizes = self.sizes[self.window_slice]
        windows = "".join(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="#1f77b4" fill-opacity="0.12" '
            f'stroke="#1f77b4" stroke-width="{line:.3g}"/>'
            for (x, y), (w, h) in zip(self.windows, sizes, strict=True)
        )
        thumbnail = (
            f", the thumbnail {self.thumbnail}" if self.thumbnail is not None else ", no thumbnail"
        )
        return (
            f'<svg viewBox="{-line} {-line} {width + 2 * line} {height + 2 * line}" width="320" '
            f'style="max-height: 320px"><rect width="{width}" height="{height}" fill="#888"/>'
            f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" fill="#fff"/>{windows}</svg>'
            f"<p>{self.width} x {self.height} pixels: {self.rows} x {self.cols} windows{thumbnail}, canvas "
            f"{width} x {height}, {self.count} tiles</p>"
        )

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the canvas to the source image."""
        return _scaled(x, y, self.content, self.source_frame)

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the source image to the canvas."""
        return _scaled(x, y, self.source_frame, self.content)

    def token_box(self, tile: int, row: int, col: int, grid: Grid) -> Box:
        """Return the rectangle of a token in pixels of the source image.

        Args:
            tile: index of the view.
            row: row of the token in the view.
            col: column of the token in the view.
            grid: (rows, cols) of the tokens of the view.
        """
        x0, y0, x1, y1 = self.boxes[tile]
        step_x, step_y = (x1 - x0) / grid[1], (y1 - y0) / grid[0]
        left, top = x0 + col * step_x, y0 + row * step_y
        return left, top, left + step_x, top + step_y


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _scaled(x: float, y: float, old: Rect, new: Rect) -> tuple[float, float]:
    """Map the point (x, y) of rectangle ``old`` to rectangle ``new``."""
    return (
        new[0] + (x - old[0]) * (new[2] - new[0]) / (old[2] - old[0]),
        new[1] + (y - old[1]) * (new[3] - new[1]) / (old[3] - old[1]),
    )
