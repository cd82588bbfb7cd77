"""Overlapping windows blended back to one grid before the bridge."""

from functools import lru_cache

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from hdvl.mergers.image import ImageMerger, check_tiles, window_features
from hdvl.protocols import FeatureMap, Features, Grid, TilePlan


class OverlapBlend(ImageMerger):
    """Blends the windows' features to one grid of the whole canvas, which then passes the bridge.

    Where windows overlap, features are averaged with weights that sum to one and fall linearly
    towards a window's inner edges, where the encoder saw least context; at the image's own edges
    weights stay full. If features depend on their own patch only, the blend equals what the encoder
    would give for the whole canvas at once. Window offsets must be multiples of a patch.

    Raises:
        ValueError: windows that do not start on patch borders, are no regular grid, or leave gaps.
    """

    def image_grid(self, plan: TilePlan) -> Grid:
        """(rows, cols) of tokens that the whole canvas becomes, padding included."""
        self.check_grid(plan)
        return self.out_grid(_patches(plan, self.grid)[2])

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]:
        """The blended image and the thumbnail, if any, in the order of the plan."""
        check_tiles(features, plan)
        self.check_grid(plan)
        down, across, canvas = _patches(plan, self.grid)
        windows = window_features(features, plan)
        order, starts, weights = _table(down, across, self.grid, windows.device)
        # Half precision is summed in float32: its rounded weights would no longer sum to one.
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
        """Rows of the image, the thumbnail before or after them."""
        first = plan.thumbnail == "first"
        image, thumbnail = maps[first], maps[not first] if plan.thumbnail else None
        rows, cols = image.grid
        tokens = rearrange(image.values, "1 (y x) e -> y x e", y=rows, x=cols)
        return self.sequence(tokens, thumbnail, plan)


def _cells(pixels: int, size: int, count: int, name: str) -> int:
    cells, rest = divmod(pixels * count, size)
    if rest:
        raise ValueError(
            f"{name} must be a multiple of the patch, {size}/{count} pixels, got {pixels}; "
            "choose tiler.stride and the canvas so"
        )
    return cells


def _patches(plan: TilePlan, grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...], Grid]:
    """Offsets of the rows and columns of windows, and the canvas, in patches."""
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
    down = tuple(_cells(y, size, rows, "window offset") for y in ys)
    across = tuple(_cells(x, size, cols, "window offset") for x in xs)
    canvas = _cells(height, size, rows, "canvas height"), _cells(width, size, cols, "canvas width")
    return down, across, canvas


def _ramps(offsets: tuple[int, ...], size: int) -> Float[Tensor, "w size"]:
    """Weight of each window's positions along one axis, summing to one over the windows."""
    start = torch.tensor(offsets, dtype=torch.float64)
    centre = torch.arange(size, dtype=torch.float64) + 0.5
    overlap = start[:-1, None] + size - start[1:, None]
    raw = torch.ones(len(offsets), size, dtype=torch.float64)
    raw[1:] *= (centre / overlap).clamp(max=1)  # no overlap divides by zero: inf, clamped to 1
    raw[:-1] *= ((size - centre) / overlap).clamp(max=1)
    index = torch.tensor(offsets)[:, None] + torch.arange(size)
    total = torch.zeros(offsets[-1] + size, dtype=torch.float64)
    total.index_add_(0, index.flatten(), raw.flatten())
    return raw / total[index]


@lru_cache(maxsize=256)
def _table(
    down: tuple[int, ...], across: tuple[int, ...], grid: Grid, device: torch.device
) -> tuple[Int[Tensor, " k"], Int[Tensor, " cells"], Float[Tensor, " k"]]:
    """The patches of all windows in the order of the canvas' cells that they show.

    Gives the order, where each cell starts in it, and each patch's weight. Keyed by geometry, not
    by plan: images of different sizes share tables.
    """
    rows, cols = grid
    # Tables outlive the call: made in inference mode they could not be used in training later.
    with torch.inference_mode(False), torch.device("cpu"):
        ys = torch.tensor(down)[:, None] + torch.arange(rows)
        xs = torch.tensor(across)[:, None] + torch.arange(cols)
        width, height = across[-1] + cols, down[-1] + rows
        cell = (ys[:, None, :, None] * width + xs[None, :, None, :]).flatten()
        weights = _ramps(down, rows)[:, None, :, None] * _ramps(across, cols)[None, :, None, :]
        order = cell.argsort(stable=True)
        starts = torch.searchsorted(cell[order], torch.arange(width * height))
        ordered = weights.flatten()[order].float()
        return order.to(device), starts.to(device), ordered.to(device)
