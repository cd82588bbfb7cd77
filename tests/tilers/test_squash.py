"""The whole image as one tile."""

import doctest
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hdvl.tilers.squash as module
from hdvl.protocols import Tiler
from hdvl.tilers import Squash


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(module).attempted >= 3
    assert doctest.testmod(module).failed == 0


def test_is_a_tiler_of_one_tile(sizes: Any) -> None:
    tiler = Squash()
    assert isinstance(tiler, Tiler) and tiler.max_tiles == 1
    for width, height in sizes:
        plan = tiler.plan(width, height)
        assert plan.count == 1 and plan.boxes == ((0, 0, width, height),)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (50, 70)])
def test_pixels(size: tuple[int, int], noise: Any) -> None:
    image = noise(*size)
    wide = image.resize((32, image.height), Image.Resampling.BICUBIC)
    want = np.asarray(wide.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(Squash(tile_size=32)(image).pixels[0].numpy(), want)


def test_an_image_without_pixels() -> None:
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 5x0"):
        Squash().plan(5, 0)
