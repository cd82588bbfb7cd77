"""Rectangles of visual tokens in the source image, in the order in which mergers return the tokens."""

from collections.abc import Sequence
from itertools import pairwise

from hdvl.protocols import Box, Grid, Rect, TilePlan


def view_places(plan: TilePlan, view: int, grid: Grid) -> list[Box]:
    """Return the rectangle of each token of one view, in pixels of the source image, in raster order.

    Args:
        plan: how the image was cut.
        view: index of the view.
        grid: (rows, cols) of the tokens of the view.
    """
    return [
        plan.token_box(view, row, col, grid) for row in range(grid[0]) for col in range(grid[1])
    ]


def canvas_places(plan: TilePlan, grid: Grid, region: Rect, resized: Grid) -> list[list[Box]]:
    """Return the rectangle of each token of a canvas in pixels of the source image, row by row.

    Args:
        plan: how the image was cut.
        grid: (rows, cols) of the tokens of the whole canvas.
        region: the part of them that is kept: (left, top, right, bottom) in tokens.
        resized: (rows, cols) that this part is resized to.
    """
    left, top, right, bottom = region
    xs = _edges(left, right, resized[1], plan.canvas[0] / grid[1])
    ys = _edges(top, bottom, resized[0], plan.canvas[1] / grid[0])
    return [
        [(*plan.to_source(x0, y0), *plan.to_source(x1, y1)) for x0, x1 in pairwise(xs)]
        for y0, y1 in pairwise(ys)
    ]


def _edges(start: int, stop: int, count: int, side: float) -> Sequence[float]:
    """Return the ``count + 1`` borders of equal parts of ``start`` to ``stop``, times ``side``."""
    # A region without tokens has one border, and so no part.
    return [(start + (stop - start) * index / max(count, 1)) * side for index in range(count + 1)]
