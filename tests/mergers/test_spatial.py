import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops import rearrange

from hdvl.mergers import Spatial
from hdvl.protocols import Grid
from hdvl.tilers import AnyRes


def same(grid: Grid) -> Grid:
    return grid


def test_tiles_become_the_image_again(make_plan: Any, run: Any) -> None:
    """Rows of tokens run across the tiles, so that cutting and merging an image restores it."""
    merger = Spatial(grid=(2, 4), out_grid=same, width=3, newline=False)
    image = torch.randn(6, 8, 3)
    tiles = rearrange(image, "(r y) (c x) d -> (r c) (y x) d", y=2, x=4)
    thumbnail = torch.randn(1, 8, 3)
    plan = make_plan((64, 96))
    assert torch.equal(run(merger, tiles, plan), image.flatten(0, 1))
    first = run(merger, torch.cat((thumbnail, tiles)), make_plan((64, 96), thumbnail="first"))
    assert torch.equal(first, torch.cat((thumbnail[0], image.flatten(0, 1))))
    last = run(merger, torch.cat((tiles, thumbnail)), make_plan((64, 96), thumbnail="last"))
    assert torch.equal(last, torch.cat((image.flatten(0, 1), thumbnail[0])))


@pytest.mark.slow  # the import of transformers is
def test_equals_llava_next() -> None:
    """Against ``pack_image_features`` of transformers, over 200 sizes, padding cut both ways."""
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

    size, side, dice = 24, 4, random.Random(0)
    tiler = AnyRes(tile_size=size, grids=((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))
    pinpoints = [[rows * size, cols * size] for rows, cols in tiler.grids]
    vision = SimpleNamespace(image_size=size, patch_size=size // side)
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints)
    )
    merger = Spatial(grid=(side, side), out_grid=same, width=2)
    sizes = [(dice.randint(1, 400), dice.randint(1, 400)) for _ in range(200)]
    cut = 0
    for width, height in [*sizes, (1, 2000), (2000, 1)]:
        plan = tiler.plan(width, height)
        features = torch.randn(plan.count, side**2, 2)
        (theirs,), _ = LlavaNextModel.pack_image_features(
            model, [features], torch.tensor([[height, width]]), "full", merger.newline
        )
        assert torch.equal(merger.arrange(merger.stitch(features, plan), plan), theirs)
        assert merger.token_count(plan) == len(theirs)
        cut += len(theirs) < (plan.rows * side) * (plan.cols * side + 1) + side**2
    assert cut > 70


def test_refuses_overlap(make_plan: Any) -> None:
    merger = Spatial(grid=(4, 4), out_grid=same, width=3)
    for plan in (make_plan((80, 32), stride=24), make_plan((72, 32), stride=32)):
        match = r"windows must stand side by side, got stride=.*; use merger=overlap_blend"
        with pytest.raises(ValueError, match=match):
            merger.token_count(plan)
        with pytest.raises(ValueError, match=match):
            merger.stitch(torch.zeros(plan.count, 16, 3), plan)


@pytest.mark.slow  # the import of transformers is
@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_equals_llava_onevision(most: int) -> None:
    """Against ``pack_image_features`` of transformers: large maps are shrunk, one view has one newline."""
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    size, side, dice = 24, 3, random.Random(0)
    grids = [(rows, cols) for rows in range(1, 5) for cols in range(1, 5)]
    tiler = AnyRes(tile_size=size, grids=grids, max_tiles=16, several_fit="pad_image")
    pinpoints = [[rows * size, cols * size] for rows, cols in tiler.grids]
    vision = SimpleNamespace(image_size=size, patch_size=size // side)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints)
    merger = Spatial(
        grid=(side, side), out_grid=same, width=2, shrink_above=most, single_newline="image"
    )
    shrunk = 0
    for _ in range(100):
        width = dice.randint(1, 300)
        # Of narrower images transformers fails to make a map without rows or columns.
        height = dice.randint(width // 6 + 1, 6 * width)
        for count in (1, 2):
            plan = tiler.for_images(count).plan(width, height)
            features = torch.randn(plan.count, side**2, 2)
            (theirs,), _ = LlavaOnevisionModel.pack_image_features(
                SimpleNamespace(config=config),
                [features],
                torch.tensor([[height, width]]),
                merger.newline,
                f"anyres_max_{most}",
            )
            ours = merger.arrange(merger.stitch(features, plan), plan)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
            assert merger.token_count(plan) == len(ours)
            shrunk += len(ours) < plan.rows * plan.cols * side**2 // 2
    assert shrunk > 5 or most == 9
    assert merger.token_count(tiler.for_images(2).plan(7, 9)) == side**2 + 1


def test_shrinking_keeps_one_row_of_tokens_at_least(make_plan: Any, run: Any) -> None:
    merger = Spatial(grid=(8, 8), out_grid=same, width=3, newline=False, shrink_above=1)
    plan = make_plan((2560, 64), content=(0, 30, 2560, 34))
    tokens = run(merger, torch.randn(plan.count, 64, 3), plan)
    assert len(tokens) == merger.token_count(plan) == 143  # of 2 x 640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink_above": 0}, "shrink_above must be at least 1 tile, or null for no limit, got 0"),
        ({"single_newline": "end"}, "single_newline must be rows or image, got 'end'"),
    ],
)
def test_options_out_of_range(
    options: dict[str, Any], message: str, unchecked: Callable[..., Any]
) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        Spatial(grid=(4, 4), out_grid=same, width=3, **options)
