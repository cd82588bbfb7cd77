"""Blending of overlapping windows to one feature map before the bridge."""

from functools import lru_cache

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

    Raises:
        ValueError: the windows of a plan do not start at patch borders, form no regular grid, or leave
            gaps.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """Return (rows, cols) of the tokens of the whole canvas, padding included."""
        self.check_grid(plan)
        return self.out_grid(_window_offsets(plan, self.grid)[2])

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """Return the map of the blended image and that of the thumbnail, in the order of the plan."""
        check_tiles(features, plan)
        self.check_grid(plan)
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
        image = FeatureMap(blended.to(windows.dtype)[None], canvas)
        if plan.thumbnail_index is None:
            return [image]
        thumbnail = self.thumbnail_map(features, plan)
        return [thumbnail, image] if plan.thumbnail == "first" else [image, thumbnail]

    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]:
        """Return the rows of the image, and the tokens of the thumbnail before or after them."""
        first = plan.thumbnail == "first"
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
    canvas = (
        _in_patches(height, size, rows, "canvas height"),
        _in_patches(width, size, cols, "canvas width"),
    )
    return down, across, canvas


def _blend_weights(offsets: tuple[int, ...], size: int) -> Float[Tensor, "w size"]:
    """Return the weight of each window's positions along one axis; they sum to one over the windows."""
    start = torch.tensor(offsets, dtype=torch.float64)
    centre = torch.arange(size, dtype=torch.float64) + 0.5
    overlap = start[:-1, None] + size - start[1:, None]
    raw = torch.ones(len(offsets), size, dtype=torch.float64)
    raw[1:] *= (centre / overlap).clamp(max=1)  # without overlap the quotient is inf, clamped to 1
    raw[:-1] *= ((size - centre) / overlap).clamp(max=1)
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
