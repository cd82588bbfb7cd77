"""Blending of overlapping windows to one feature map before the bridge."""

from functools import lru_cache
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from hdvl.mergers.image import ImageMerger, check_tiles, window_features
from hdvl.protocols import FeatureMap, Features, Grid, TilePlan


class OverlapBlend(ImageMerger):
    """Blends the features of overlapping windows to one map of the whole canvas, before the bridge.

    Features of overlapping windows are averaged with weights that sum to one. A weight falls linearly
    towards the inner edges of its window, where the encoder had the least context, but not towards the
    edges of the image. For an encoder whose features depend only on their own patch the result equals
    encoding the whole canvas at once.

    Where only some windows of a grid are there (:meth:`hdvl.geometry.TilePlan.subset`), tokens are given for
    the parts of the image that they show: rows are shorter, and rows without a token have no newline. Where
    a neighbour is missing, the features of a window are not blended.

    Raises:
        ValueError: the windows of a plan do not start at patch borders, are no squares of a regular grid, or
            all windows of the grid are there and leave gaps.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """Return (rows, cols) of the tokens of the whole canvas, padding included."""
        if plan.is_grid and plan.windows:
            return self.out_grid(_window_offsets(plan, self.grid)[2])
        if any(size != (plan.tile_size,) * 2 for size in plan.window_sizes) or not plan.count:
            self.check_grid(plan)
        return self.out_grid(_canvas_grid(plan, self.grid))

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """Return the map of the blended image and that of the thumbnail, in the order of the plan."""
        check_tiles(features, plan)
        if not (plan.is_grid and plan.windows):
            return self._stitch_some(features, plan)
        down, across, canvas = _window_offsets(plan, self.grid)
        windows = window_features(features, plan)
        order, starts, weights = _blend_table(down, across, self.grid, windows.device)
        # Weights rounded to half precision would not sum to one, so sums are computed in float32.
        dtype = torch.promote_types(windows.dtype, torch.float32)
        blended = embedding_bag(
            order,
            rearrange(windows, "t n d -> (t n) d").to(dtype),
            starts,
            mode="sum",
            per_sample_weights=weights.to(dtype),
        )
        return self._with_thumbnail(
            FeatureMap(blended.to(windows.dtype)[None], canvas), features, plan
        )

    def _stitch_some(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """Return the maps where only some windows of a grid are there. Cells that none shows hold zeros."""
        self.image_grid(plan)
        if not plan.windows:
            return [self.thumbnail_map(features, plan)]
        windows, canvas = window_features(features, plan), _canvas_grid(plan, self.grid)
        size = (plan.tile_size, plan.tile_size)
        places = tuple(
            tuple(
                _in_patches(start, side, count, "window offset")
                for start, side, count in zip((y, x), size, self.grid, strict=True)
            )
            for x, y in plan.windows
        )
        cells, weights = _some_weights(places, self.grid, canvas)
        dtype = torch.promote_types(windows.dtype, torch.float32)
        flat = rearrange(windows, "t n d -> (t n) d").to(dtype)
        blended = torch.zeros(prod(canvas), flat.shape[1], dtype=dtype, device=flat.device)
        weighted = flat * weights.to(flat)[:, None]
        blended = blended.index_add(0, cells.to(flat.device), weighted).to(windows.dtype)
        return self._with_thumbnail(FeatureMap(blended[None], canvas), features, plan)

    def _with_thumbnail(
        self, image: FeatureMap, features: Features, plan: TilePlan
    ) -> list[FeatureMap]:
        if plan.thumbnail_index is None:
            return [image]
        thumbnail = self.thumbnail_map(features, plan)
        return [thumbnail, image] if plan.thumbnail == "first" else [image, thumbnail]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Return the rows of the image, and the tokens of the thumbnail before or after them."""
        first = plan.thumbnail == "first"
        if not plan.windows:
            return self.sequence(None, maps[0], plan)
        image, thumbnail = maps[first], maps[not first] if plan.thumbnail else None
        rows, cols = image.grid
        tokens = rearrange(image.values, "1 (y x) e -> y x e", y=rows, x=cols)
        return self.sequence(tokens, thumbnail, plan)


def _in_patches(pixels: int, size: int, count: int, name: str) -> int:
    cells, rest = divmod(pixels * count, size)
    if rest:
        raise ValueError(
            f"{name} must be a multiple of the patch, {size}/{count} pixels, got {pixels}; "
            "choose tiler.stride and tiler.multiple_of accordingly, or merger=concat"
        )
    return cells


def _window_offsets(plan: TilePlan, grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...], Grid]:
    """Return the offsets of the rows and columns of windows, and the size of the canvas, in patches."""
    size, (rows, cols) = plan.tile_size, grid
    xs = tuple(x for x, _ in plan.windows[: plan.cols])
    ys = tuple(y for _, y in plan.windows[:: plan.cols])
    if plan.windows != tuple((x, y) for y in ys for x in xs):
        raise ValueError(f"windows must form rows and columns, got {plan.windows}")
    width, height = plan.canvas
    for offsets, side, name in ((xs, width, "width"), (ys, height, "height")):
        ends = [0, *(offset + size for offset in offsets)]
        starts = [*offsets, side]
        if any(a > b for a, b in zip(starts, ends, strict=True)) or ends[-1] != side:
            raise ValueError(
                f"windows must cover the canvas {name}={side} without gaps, got offsets {offsets} "
                f"of tile_size={size}"
            )
    down = tuple(_in_patches(y, size, rows, "window offset") for y in ys)
    across = tuple(_in_patches(x, size, cols, "window offset") for x in xs)
    return down, across, _canvas_grid(plan, grid)


def _canvas_grid(plan: TilePlan, grid: Grid) -> Grid:
    """Return (rows, cols) of the canvas in patches."""
    width, height = plan.canvas
    return (
        _in_patches(height, plan.tile_size, grid[0], "canvas height"),
        _in_patches(width, plan.tile_size, grid[1], "canvas width"),
    )


def _some_weights(
    places: tuple[tuple[int, ...], ...], grid: Grid, canvas: Grid
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Return the cell of the canvas and the weight of each patch of some windows of a grid.

    The weights of a cell sum to one.

    Args:
        places: the first row and column of each window, in patches.
        grid: (rows, cols) of the patches of a window.
        canvas: (rows, cols) of the canvas in patches.
    """
    ramps, indices = [], []
    for axis in (0, 1):
        offsets = sorted({place[axis] for place in places})
        chosen = torch.tensor([offsets.index(place[axis]) for place in places])
        ramps.append(_ramps(tuple(offsets), grid[axis])[chosen])
        indices.append(torch.tensor(offsets)[chosen, None] + torch.arange(grid[axis]))
    cells = (indices[0][:, :, None] * canvas[1] + indices[1][:, None, :]).flatten()
    raw = (ramps[0][:, :, None] * ramps[1][:, None, :]).flatten()
    total = torch.zeros(prod(canvas), dtype=raw.dtype).index_add_(0, cells, raw)
    return cells, raw / total[cells]


def _ramps(offsets: tuple[int, ...], size: int) -> Float[Tensor, "w size"]:
    """Return weights along one axis that fall linearly where a window overlaps the next one."""
    start = torch.tensor(offsets, dtype=torch.float64)
    centre = torch.arange(size, dtype=torch.float64) + 0.5
    overlap = (start[:-1, None] + size - start[1:, None]).clamp(min=0)  # negative at a gap
    raw = torch.ones(len(offsets), size, dtype=torch.float64)
    raw[1:] *= (centre / overlap).clamp(max=1)  # without overlap the quotient is inf, clamped to 1
    raw[:-1] *= ((size - centre) / overlap).clamp(max=1)
    return raw


def _blend_weights(offsets: tuple[int, ...], size: int) -> Float[Tensor, "w size"]:
    """Return the weight of each window's positions along one axis; they sum to one over the windows."""
    raw = _ramps(offsets, size)
    index = torch.tensor(offsets)[:, None] + torch.arange(size)
    total = torch.zeros(offsets[-1] + size, dtype=torch.float64)
    total.index_add_(0, index.flatten(), raw.flatten())
    return raw / total[index]


@lru_cache(maxsize=256)
def _blend_table(
    down: tuple[int, ...], across: tuple[int, ...], grid: Grid, device: torch.device
) -> tuple[Int[Tensor, " k"], Int[Tensor, " cells"], Float[Tensor, " k"]]:
    """Return how the patches of all windows are summed into the cells of the canvas.

    The result is cached by geometry rather than by plan, so that images of different sizes share it.

    Returns:
        The indices of the patches sorted by the cell that they show, the position at which each cell
        starts among them, and the weight of each patch.
    """
    rows, cols = grid
    # Cached tensors that were created in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.device("cpu"):
        ys = torch.tensor(down)[:, None] + torch.arange(rows)
        xs = torch.tensor(across)[:, None] + torch.arange(cols)
        width, height = across[-1] + cols, down[-1] + rows
        cell = (ys[:, None, :, None] * width + xs[None, :, None, :]).flatten()
        weights = (
            _blend_weights(down, rows)[:, None, :, None]
            * _blend_weights(across, cols)[None, :, None, :]
        )
        order = cell.argsort(stable=True)
        starts = torch.searchsorted(cell[order], torch.arange(width * height))
        ordered = weights.flatten()[order].float()
        return order.to(device), starts.to(device), ordered.to(device)
