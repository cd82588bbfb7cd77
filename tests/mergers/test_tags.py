"""Text between the visual tokens of an image."""

from typing import Any

import pytest

from hdvl.geometry import TilePlan, token_count
from hdvl.mergers import Concat, OverlapBlend, Spatial
from hdvl.mergers.tags import Tags, joined
from hdvl.protocols import Grid, Size

SMOLVLM = {
    "before_tile": "<fake><row_{row}_col_{col}>",
    "row_end": "\n",
    "before_thumbnail": "\n<fake><global-img>",
    "after_thumbnail": "<fake>",
}


def same(grid: Grid) -> Grid:
    return grid


def concat(tags: Any = None, **options: Any) -> Concat:
    return Concat(grid=(2, 2), out_grid=same, width=4, tags=tags, **options)


def plan(rows: int, cols: int, thumbnail: Any = None) -> TilePlan:
    return TilePlan.of_grid(640, 480, (rows, cols), tile_size=8, thumbnail=thumbnail)


def test_tags_are_placed_as_in_published_models() -> None:
    layout = concat(SMOLVLM).layout(plan(2, 2, "last"))
    assert layout == (
        "<fake><row_1_col_1>", 4, "<fake><row_1_col_2>", 4, "\n<fake><row_2_col_1>", 4,
        "<fake><row_2_col_2>", 4, "\n\n<fake><global-img>", 4, "<fake>",
    )  # fmt: skip
    assert token_count(layout) == 20
    assert concat(SMOLVLM).layout(plan(0, 0, "last")) == ("\n<fake><global-img>", 4, "<fake>")
    aya = {
        "before_image": "<s>",
        "after_image": "</s>",
        "before_tile": "TILE_{index}",
        "before_thumbnail": "TILE_GLOBAL",
        "before_single": "TILE_GLOBAL",
    }
    assert concat(aya).layout(plan(1, 2, "first")) == (
        "<s>TILE_GLOBAL", 4, "TILE_1", 4, "TILE_2", 4, "</s>",
    )  # fmt: skip
    assert concat(aya).layout(plan(1, 1)) == ("<s>TILE_GLOBAL", 4, "</s>")
    slices = {"before_tile": "[", "after_tile": "]", "between_tiles": ",", "between_rows": ";"}
    assert concat(slices).layout(plan(2, 2)) == ("[", 4, "],[", 4, "];[", 4, "],[", 4, "]")
    windows = {"before_windows": "<w>", "after_windows": "</w>"}
    assert concat(windows).layout(plan(0, 0, "last")) == (4,)
    breaks = concat({"token_row_end": "|"})
    assert breaks.layout(plan(1, 1)) == (2, "|", 2, "|")


def test_a_layout_without_text_is_one_run() -> None:
    assert concat().layout(plan(2, 2, "last")) == (20,)
    assert concat().token_count(plan(2, 2, "last")) == 20
    assert joined(["", 0]) == ()


def test_a_subset_keeps_the_places_of_its_windows() -> None:
    some = plan(2, 3, "last").subset([1, 5])
    tags = {"before_tile": "r{row}c{col}i{index} ", "row_end": "/"}
    assert concat(tags).layout(some) == ("r1c2i1 ", 4, "/r2c3i2 ", 4, "/", 4)
    merger = Spatial(grid=(2, 2), out_grid=same, width=4)
    match = r"Spatial needs windows that form a grid .* 2 windows of a grid of 2x3"
    with pytest.raises(ValueError, match=match):
        merger.layout(some)
    rows = OverlapBlend(grid=(2, 2), out_grid=same, width=4, tags={"token_row_end": "/"})
    assert rows.layout(some) == (3, "/", 3, "/", 3, "/", 3, "/", 2, "/", 2, "/")


def test_views_of_several_sizes_have_their_own_counts() -> None:
    def grid_for(size: Size) -> Grid:
        return size[1] // 4, size[0] // 4

    large = TilePlan(**{**vars(plan(1, 2, "last")), "thumbnail_size": (12, 8)})
    assert concat({"before_tile": "t"}, grid_for=grid_for).layout(large) == ("t", 4, "t", 4 + 6)


@pytest.mark.parametrize("kind", [Spatial, OverlapBlend])
def test_tags_around_windows_that_became_one_image(kind: Any) -> None:
    tags = {"before_image": "<i>", "before_windows": "<w>", "before_thumbnail": "<t>"}
    merger = kind(grid=(2, 2), out_grid=same, width=4, newline=True, tags=tags)
    assert merger.layout(plan(1, 2, "last")) == ("<i><w>", 2 * 5, "<t>", 4)
    rows = kind(grid=(2, 2), out_grid=same, width=4, newline=False, tags={"token_row_end": "|"})
    assert rows.layout(plan(1, 2)) == (4, "|", 4, "|")
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} puts the windows together .*before_tile"
    ):
        kind(grid=(2, 2), out_grid=same, width=4, tags={"before_tile": "x"})


def test_invalid_tags_are_refused(unchecked: Any) -> None:
    with pytest.raises(ValueError, match="got 'befor_tile'; did you mean before_tile"):
        Tags.of({"befor_tile": "x"})
    with pytest.raises(ValueError, match=r"tags.before_tile may hold \{row\}, \{col\}, \{index\}"):
        Tags(before_tile="{x}")
    with pytest.raises(ValueError, match=r"tags\.row_end may hold no placeholder"):
        Tags(row_end="{row}")
    with pytest.raises(ValueError, match=r"tags.before_tile must be text with placeholders"):
        Tags(before_tile="{row")
    with unchecked(), pytest.raises(TypeError, match=r"tags\.row_end must be a string, got 3"):
        Tags.of({"row_end": 3})
    assert concat({"before_tile": "{{row}}"}).layout(plan(1, 1)) == ("{row}", 4)
    assert concat({"row_end": "}}", "after_image": "{{"}).layout(plan(1, 1)) == (4, "}{")
