"""Tiles as tensors that vLLM carries, and the size of image that takes the most ids."""

import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.integrations.vllm.tiles import largest_image, packed, unpacked
from hdvl.protocols import TilePlan, Tiler
from hdvl.tilers import AnyRes, LongestEdge, SlidingWindow, Squash
from hdvl.views import groups

TILERS: dict[str, Tiler] = {
    "grid": AnyRes(tile_size=28),
    "views of two sizes": SlidingWindow(
        tile_size=32, stride=32, multiple_of=32, max_tiles=6, thumbnail_size=64
    ),
    "one view": Squash(tile_size=28),
    "longest edge": LongestEdge(tile_size=28, longest_edge=112),
}


@pytest.mark.parametrize("name", TILERS)
def test_tiles_come_back_as_they_were(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    tiles = TILERS[name](Image.fromarray(pixels))
    row, plan = packed(tiles)
    assert (row.ndim, row.dtype, plan.dtype) == (1, torch.uint8, torch.uint8)
    again, found = unpacked(row, plan)
    assert found == tiles.plan
    pairs = zip(groups(tiles.pixels), groups(again), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("name", TILERS)
def test_no_image_takes_more_ids_than_the_largest(name: str) -> None:
    tiler = TILERS[name]

    def length(plan: TilePlan) -> int:
        return sum(width * height for width, height in plan.sizes)

    most = length(tiler.plan(*largest_image(tiler, length)))
    rng = np.random.default_rng(0)
    sizes = 2 ** rng.uniform(0, 13, (300, 2))
    assert max(length(tiler.plan(int(w), int(h))) for w, h in sizes) <= most


def test_the_entry_point_names_a_function(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["hdvl"].partition(":")
    assert callable(getattr(import_module(module), name))
