"""LLaVA-NeXT's tiling, against the processor of transformers."""

import doctest
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hdvl.tilers.anyres as module
from hdvl.protocols import Tiler
from hdvl.tilers import AnyRes


def test_examples_of_the_docstring() -> None:
    assert doctest.testmod(module).attempted >= 3
    assert doctest.testmod(module).failed == 0


def test_is_a_tiler() -> None:
    assert isinstance(AnyRes(), Tiler)


@pytest.fixture
def width_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's resize as it was before version 13, which processors of transformers call."""
    resize = Image.Image.resize

    def twice(self: Image.Image, size: Any, *args: Any, **options: Any) -> Image.Image:
        half = resize(self, (size[0], self.height), *args, **options)
        return resize(half, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", twice)


@pytest.fixture(scope="module")
def llava_next() -> Any:
    """The class of their processor; imported in a fixture, for that takes longer than the test."""
    from transformers.models.llava_next import image_processing_pil_llava_next as module

    return module.LlavaNextImageProcessorPil


def processor(kind: Any, tiler: AnyRes) -> Any:
    size = tiler.tile_size
    return kind(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_grid_pinpoints=[[rows * size, cols * size] for rows, cols in tiler.grids],
        do_normalize=False,
        do_rescale=False,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("width_first")
def test_equals_transformers_on_200_sizes(sizes: Any, llava_next: Any) -> None:
    """Small tiles and images make this quick; only the ratios matter."""
    draw = np.random.default_rng(3)
    tiler = AnyRes(tile_size=28)
    theirs = processor(llava_next, tiler)
    assert len(sizes) == 200
    for width, height in sizes:
        # at least 4: transformers guesses the axis of the channels by its length
        array = draw.integers(0, 256, (height // 12 + 4, width // 12 + 4, 3), dtype=np.uint8)
        want = theirs(Image.fromarray(array), return_tensors="np")["pixel_values"][0]
        tiles = tiler(array)
        assert np.array_equal(tiles.pixels.numpy(), want), (width, height)


@pytest.mark.usefixtures("width_first")
@pytest.mark.parametrize("size", [(640, 480), (300, 1900), (1008, 336), (2000, 700)])
def test_equals_transformers_at_the_published_size(
    size: tuple[int, int], noise: Any, llava_next: Any
) -> None:
    image = noise(*size)
    want = processor(llava_next, AnyRes())(image, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(AnyRes()(image).pixels.numpy(), want)


def test_plans_equal_transformers(sizes: Any) -> None:
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    tiler = AnyRes(grids=((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))
    for width, height in sizes:
        plan = tiler.plan(width, height)
        pinpoints = [[rows * 336, cols * 336] for rows, cols in tiler.grids]
        best = select_best_resolution((height, width), pinpoints)
        assert plan.canvas == best[::-1], (width, height)
        image = np.broadcast_to(np.uint8(0), (3, height, width))
        x0, y0, x1, y1 = plan.content
        assert (y1 - y0, x1 - x0) == get_patch_output_size(image, best, "channels_first")
        assert (y0, x0) == ((best[0] - (y1 - y0)) // 2, (best[1] - (x1 - x0)) // 2)


def test_every_pixel_is_covered(sizes: Any) -> None:
    for width, height in sizes:
        plan = AnyRes(thumbnail="last").plan(width, height)
        x0, y0, x1, y1 = np.array(plan.boxes[plan.window_slice]).T
        assert x0.min() <= 1e-9 and x1.max() >= width * (1 - 1e-9)
        assert y0.min() <= 1e-9 and y1.max() >= height * (1 - 1e-9)
        corner = plan.to_canvas(float(width), float(height))
        assert corner == pytest.approx(plan.content[2:])


@pytest.mark.parametrize("backend", ["exact", "fast"])
def test_the_padding_is_black_in_torch_too(backend: Any, noise: Any) -> None:
    image = noise(1000, 600)
    want, got = AnyRes()(image), AnyRes(backend=backend)(image)
    _, y0, _, y1 = want.plan.content
    assert (y0, y1) == (134, 538)
    assert (got.pixels[1][:, :y0] == 0).all() and (got.pixels[3][:, y1 - 336 :] == 0).all()
    assert (got.pixels[1][:, y0:] != 0).any() and (got.pixels[3][:, : y1 - 336] != 0).any()
    windows = want.plan.window_slice
    difference = want.pixels[windows].int() - got.pixels[windows].int()
    assert difference.abs().max() <= 2


def test_max_tiles_leaves_larger_grids_out() -> None:
    assert AnyRes().plan(900, 900).count == 5
    assert AnyRes(max_tiles=3).plan(900, 900).count == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tiles": 1}, "grids must hold one of at most max_tiles=1 tiles"),
        ({"grids": []}, "grids must hold one of at most max_tiles=4 tiles"),
        ({"grids": [[0, 1]]}, "grids must hold pairs of rows and cols >= 1"),
        ({"thumbnail": "x"}, "thumbnail must be"),
    ],
)
def test_wrong_numbers(options: dict[str, Any], message: str, unchecked: Any) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(AnyRes, **options)
