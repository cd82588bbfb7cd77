"""Fits, paddings, filters and thumbnails other than the default."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.config import compose
from hdvl.protocols import TilerByCount, tiler_for
from hdvl.tilers import AnyRes, DynamicRatio, LongestEdge, Native, SlidingWindow, Squash
from hdvl.tilers.base import with_encoder
from hdvl.views import view_pixels


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    dice = np.random.default_rng(seed)
    small = dice.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def pixels(tiler: Any, source: Image.Image, index: int = 0) -> np.ndarray:
    tiles = tiler(source)
    view = view_pixels(tiles.pixels, tiles.plan)[index]
    return view.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("backend", ["pillow", "exact"])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_filters_are_those_of_pillow(backend: Any, resample: Any) -> None:
    source = image(150, 90)
    want = np.asarray(source.resize((32, 32), Image.Resampling[resample.upper()]))
    got = pixels(Squash(tile_size=32, resample=resample, backend=backend), source)
    assert np.abs(want.astype(int) - got).max() <= (0 if backend == "pillow" else 2)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_padding_and_position_of_the_image(backend: Any) -> None:
    source = image(100, 50)
    tiler = Squash(tile_size=40, fit="pad", padding=(1, 2, 3), backend=backend)
    assert tiler.plan(100, 50).content == (0, 10, 40, 30)
    got = pixels(tiler, source)
    assert (got[:10] == (1, 2, 3)).all() and (got[30:] == (1, 2, 3)).all()
    plain = pixels(Squash(tile_size=40, backend=backend), source.resize((40, 20)))
    assert got[10:30].shape == (20, 40, 3) and plain.shape == (40, 40, 3)
    first = pixels(
        Squash(tile_size=40, fit="pad_image", padding=(9, 9, 9), backend=backend), source
    )
    canvas = Image.new("RGB", (100, 100), (9, 9, 9))
    canvas.paste(source, (0, 25))
    want = pixels(Squash(tile_size=40, backend=backend), canvas)
    assert np.array_equal(first, want)


def test_the_mean_colour_comes_from_the_encoder() -> None:
    tiler = Squash(tile_size=40, fit="pad", padding="mean")
    with pytest.raises(ValueError, match="padding=mean is the encoder's mean colour"):
        tiler(image(100, 50))
    filled = with_encoder(tiler, (0.48145466, 0.4578275, 0.40821073))
    assert filled.padding == (122, 116, 104)  # type: ignore[attr-defined]
    assert pixels(filled, image(100, 50))[0, 0].tolist() == [122, 116, 104]


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (37, 90), (40, 40)])
def test_a_centre_crop_cuts_the_middle(size: tuple[int, int]) -> None:
    source = image(*size)
    tiler = Squash(tile_size=40, fit="crop")
    short = min(size)
    new = (int(40 * size[0] / short), int(40 * size[1] / short))
    left, top = (new[0] - 40) // 2, (new[1] - 40) // 2
    want = source.resize((new[0], source.height), Image.Resampling.BICUBIC).resize(
        new, Image.Resampling.BICUBIC
    )
    assert np.array_equal(
        pixels(tiler, source), np.asarray(want.crop((left, top, left + 40, top + 40)))
    )
    box = tiler.plan(*size).boxes[0]
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] + 1 and box[3] <= size[1] + 1


def test_a_fixed_grid_with_a_thumbnail(unchecked: Any) -> None:
    tiler = Squash(tile_size=32, grid=(2, 2), thumbnail="last")
    plan = tiler.plan(300, 200)
    assert plan.count == 5 and plan.boxes[0] == (0.0, 0.0, 150.0, 100.0)
    assert plan.boxes[4] == (0.0, 0.0, 300.0, 200.0)
    with pytest.raises(ValueError, match=r"grid must be \(rows, cols\) of at least 1"):
        Squash(grid=(0, 2))
    with pytest.raises(ValueError, match="fit must be one of"):
        unchecked(Squash, fit="stretch")


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_thumbnails_of_their_own_size(backend: Any) -> None:
    source = image(400, 200)
    tiler = DynamicRatio(
        tile_size=32, thumbnail_size=64, thumbnail_fit="pad", padding=(7, 7, 7), backend=backend
    )
    tiles = tiler(source)
    assert isinstance(tiles.pixels, tuple) and [part.shape[2] for part in tiles.pixels] == [32, 64]
    whole = view_pixels(tiles.pixels, tiles.plan)[-1]
    assert (whole[:, :16] == 7).all() and (whole[:, 48:] == 7).all()
    assert tiles.plan.boxes[-1] == (0.0, -100.0, 400.0, 300.0)
    oblong = AnyRes(tile_size=32, thumbnail_fit="aspect", thumbnail_multiple=8).plan(400, 190)
    assert oblong.sizes[0] == (32, 16) and oblong.boxes[0] == (0.0, 0.0, 400.0, 190.0)
    window = SlidingWindow(tile_size=64, stride=64, thumbnail_size=128).plan(500, 300)
    assert window.sizes[0] == (128, 128)
    with pytest.raises(
        ValueError, match="thumbnail_multiple must divide the thumbnail's side of 32"
    ):
        AnyRes(tile_size=32, thumbnail_multiple=5)


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
def test_native_views_are_oblong(backend: Any) -> None:
    tiler = Native(multiple_of=16, backend=backend)
    tiles = tiler(image(100, 50))
    assert isinstance(tiles.pixels, torch.Tensor) and tiles.pixels.shape == (1, 3, 48, 96)
    assert tiles.plan.boxes == ((0.0, 0.0, 100.0, 50.0),)
    for size in [(1, 5000), (5000, 1), (3, 4), (4000, 3000), (799, 801)]:
        for rounding in ("nearest", "fill"):
            width, height = Native(rounding=rounding, min_patches=4).plan(*size).sizes[0]
            assert width % 16 == height % 16 == 0 and width * height <= 1024 * 256


def test_native_sizes_are_those_of_transformers() -> None:
    from transformers.models.siglip2.image_processing_siglip2 import (
        get_image_size_for_max_num_patches,
    )

    tiler = Native(multiple_of=16, max_patches=256, rounding="fill")
    dice = np.random.default_rng(0)
    for width, height in dice.integers(1, 3000, (40, 2)).tolist():
        high, wide = get_image_size_for_max_num_patches(height, width, 16, 256)
        assert tiler.plan(width, height).sizes == ((wide, high),)


def test_blank_windows_are_left_out_when_asked() -> None:
    source = Image.new("RGB", (64, 32), (200, 10, 10))
    source.paste(image(32, 32), (32, 0))
    options = {"tile_size": 32, "stride": 32, "backend": "pillow"}
    assert SlidingWindow(**options)(source).plan.count == 3  # type: ignore[arg-type]
    tiles = SlidingWindow(skip_blank=True, **options)(source)  # type: ignore[arg-type]
    assert [(view.row, view.col) for view in tiles.plan.views] == [(None, None), (0, 1)]
    assert len(tiles.pixels) == 2
    blank = Image.new("RGB", (64, 32))
    only = SlidingWindow(skip_blank=True, thumbnail=None, **options)(blank)  # type: ignore[arg-type]
    assert only.plan.count == 1 and SlidingWindow(skip_blank=True, **options)(blank).plan.count == 1  # type: ignore[arg-type]


def test_the_filter_has_a_key_of_its_own(unchecked: Any) -> None:
    with pytest.raises(ValueError, match="got 'exact'; set backend=exact in its place"):
        unchecked(Squash, resample="exact")
    with pytest.raises(ValueError, match=r"padding must be three numbers in 0\.\.255, or mean"):
        unchecked(Squash, padding=(1, 2))
    with pytest.raises(ValueError, match="thumbnail must be first or last for this tiler"):
        LongestEdge(thumbnail=None)


def test_longest_edges_are_those_of_idefics3() -> None:
    from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor

    published = Idefics3ImageProcessor(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 32}, return_row_col_info=True
    )
    tiler = LongestEdge(tile_size=32, longest_edge=128, backend="exact", resample="lanczos")
    dice = np.random.default_rng(0)
    for number, (width, height) in enumerate(dice.integers(20, 400, (12, 2)).tolist()):
        source = image(width, height, number)
        want = published([[source]], do_rescale=False, do_normalize=False, return_tensors="pt")
        tiles = tiler(source)
        assert (want["rows"][0][0], want["cols"][0][0]) == (tiles.plan.rows, tiles.plan.cols)
        assert torch.equal(want["pixel_values"][0].to(torch.uint8), tiles.pixels)


def test_the_shortest_edge_may_be_longer_or_shorter_than_the_tile() -> None:
    tiler = Squash(tile_size=40, fit="crop", shortest_edge=50, backend="exact")
    assert tiler.plan(100, 50).content == (-30, -5, 70, 45)
    assert Squash(tile_size=40, fit="crop", shortest_edge=20).plan(100, 50).content == (
        0,
        10,
        40,
        30,
    )
    source = image(100, 50)
    want = np.asarray(source)[5:45, 30:70]
    assert (pixels(tiler, source) == want).all()
    with pytest.raises(ValueError, match="shortest_edge must be at least 1 pixel, of fit=crop"):
        Squash(fit="squash", shortest_edge=20)


def test_several_images_have_a_tiler_of_their_own(unchecked: Any) -> None:
    tiler = with_encoder(
        AnyRes(
            tile_size=40,
            several_fit="pad_image",
            several_padding="mean",
            backend="exact",
            exif=False,
        ),
        (0.5, 0.2, 0.1),
    )
    assert isinstance(tiler, AnyRes) and isinstance(tiler, TilerByCount)
    assert tiler_for(tiler, 1) is tiler and tiler_for(tiler, 0) is tiler
    several = tiler_for(tiler, 2)
    same = {"tile_size": 40, "backend": "exact", "exif": False}
    assert several == Squash(fit="pad_image", padding=(127, 51, 25), **same)
    assert tiler_for(AnyRes(), 2) == AnyRes()
    assert tiler_for(Squash(), 2) == Squash()
    with pytest.raises(ValueError, match="several_fit must be one of"):
        unchecked(AnyRes, several_fit="tiles")
    with pytest.raises(ValueError, match="several_padding must be three numbers"):
        AnyRes(several_padding=(1, 2))


@pytest.mark.slow
def test_transparent_pixels_are_those_of_transformers() -> None:
    """Its processors lay images on white; so do the presets whose reference they are."""
    from transformers.models.llava.image_processing_llava import LlavaImageProcessor

    small = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    clear = Image.fromarray(small).resize((160, 120))
    published = LlavaImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    want = published(clear, do_rescale=False, do_normalize=False, return_tensors="pt")
    tiler = Squash(tile_size=64, fit="crop", backend="exact", background=(255, 255, 255))
    assert torch.equal(want["pixel_values"].to(torch.uint8), tiler(clear).pixels)
    designs = ("llava_1_5", "llava_onevision", "llava_next", "smolvlm", "idefics3", "aya_vision",
               "internvl_3", "lfm2_vl")  # fmt: skip
    for name in designs:
        assert list(compose(f"tiler={name}", config_name="tile").tiler.background) == [
            255,
            255,
            255,
        ]
