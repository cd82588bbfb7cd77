"""Weights over an image drawn as a heat map."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from hdvl.drawing.tiles import draw_tiles
from hdvl.geometry import TilePlan

_BRIGHTEST = 99.0
"""The percentile of the weights that gets the full colour, so that a few large ones do not hide the rest."""


def draw_heat(image: Image.Image, grid: Sequence[Sequence[float]], plan: TilePlan) -> Image.Image:
    """Return ``image`` in grey with the weights of ``grid`` as colours, and the outlines of the tiles.

    The colours run from none over red to yellow. They are relative to the 99th percentile of the weights,
    or to the largest one if that is zero; the weights are drawn on a scale of square roots.

    Args:
        image: the image that ``plan`` is for, or a proportionally scaled copy.
        grid: weights (rows, cols) of at least 0 over the whole image.
        plan: how the image was cut.

    Raises:
        ValueError: ``image`` is not in the proportions of ``plan``.
    """
    weights = np.asarray(grid, dtype=np.float64)
    full = float(np.percentile(weights, _BRIGHTEST)) or float(weights.max())
    level = np.sqrt(np.clip(weights / full, 0, 1)) if full > 0 else weights
    heat = Image.fromarray(np.rint(255 * level).astype(np.uint8))
    heat = heat.resize(image.size, Image.Resampling.BILINEAR)
    colours = ImageOps.colorize(heat, black=(60, 0, 20), mid=(225, 40, 20), white=(255, 235, 60))
    grey = ImageOps.grayscale(image).convert("RGB")
    opacity = heat.point([round(0.75 * value) for value in range(256)])
    return draw_tiles(Image.composite(colours, grey, opacity), plan)
