"""Passes the tiles of an image from vLLM's processor to the model: two tensors an image."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict

import torch
from jaxtyping import UInt8
from torch import Tensor

from hdvl.protocols import Pixels, TilePlan, Tiler, Tiles
from hdvl.views import groups

_SHAPES = (1, 2, 3, 4, 6, 8)
_LONGEST = 8192


def packed(tiles: Tiles) -> tuple[UInt8[Tensor, " n"], UInt8[Tensor, " m"]]:
    """The pixels of all views in one row, and the plan as JSON in UTF-8."""
    pixels = torch.cat([group.reshape(-1) for group in groups(tiles.pixels)])
    text = json.dumps(asdict(tiles.plan)).encode()
    return pixels, torch.frombuffer(bytearray(text), dtype=torch.uint8)


def unpacked(pixels: UInt8[Tensor, " n"], plan: UInt8[Tensor, " m"]) -> tuple[Pixels, TilePlan]:
    """The inverse of :func:`packed`."""
    found = TilePlan.from_plain(json.loads(bytes(plan.cpu().tolist())))
    counts = Counter(found.sizes)
    lengths = [3 * width * height * count for (width, height), count in counts.items()]
    parts = tuple(
        part.reshape(count, 3, height, width)
        for part, ((width, height), count) in zip(
            torch.split(pixels, lengths), counts.items(), strict=True
        )
    )
    return (parts[0] if len(parts) == 1 else parts), found


def largest_image(tiler: Tiler, length: Callable[[TilePlan], int]) -> tuple[int, int]:
    """The (width, height) of an image that takes the most ids, of those of many shapes and sizes.

    Args:
        tiler: the tiler.
        length: the number of ids of an image that is cut by a plan.
    """
    return max(_sizes(tiler), key=lambda size: (length(tiler.plan(*size)), -size[0] * size[1]))


def _sizes(tiler: Tiler) -> Iterable[tuple[int, int]]:
    """Multiples of the tile, with sides in the proportions 1:8 to 8:1, as far as ``_LONGEST`` pixels."""
    side = tiler.tile_size
    most = max(1, _LONGEST // side)
    steps = sorted(
        {*range(1, min(most, 12) + 1), *(2**power for power in range(most.bit_length()))}
    )
    proportions = {(a, b) for a in _SHAPES for b in _SHAPES}
    units = {(step * a, step * b) for step in steps for a, b in proportions}
    return sorted({(side * min(w, most), side * min(h, most)) for w, h in units})
