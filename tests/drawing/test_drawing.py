"""Boxes and grids are drawn at the right positions, and labels that cannot be written give a warning."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hdvl.drawing import COLOURS, draw_boxes, draw_canvas, draw_tiles, fonts, tiles, view_names
from hdvl.drawing.boxes import overlap
from hdvl.drawing.fonts import font_for
from hdvl.inputs import ASSETS
from hdvl.protocols import GroundedBox
from hdvl.tilers import AnyRes, NativeTiles, SlidingWindow, Squash

WHITE = (255, 255, 255)


def blank(width: int = 200, height: int = 160) -> Image.Image:
    return Image.new("RGB", (width, height), WHITE)


def coloured(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != 255).any(-1)


def test_an_outline_surrounds_its_box() -> None:
    source = blank()
    drawn = draw_boxes(source, [GroundedBox(label="", box=(40.0, 30.0, 90.0, 80.0))])
    ys, xs = np.nonzero(coloured(drawn))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (36, 26, 94, 84)
    # A gap of a line's width lies between the box and its frame.
    assert not coloured(drawn)[28:82, 38:92].any() and drawn.getpixel((37, 55)) == COLOURS[0]
    assert not coloured(source).any()  # a copy


def test_frames_with_different_gaps_do_not_hide_each_other() -> None:
    image, box = (
        Image.new("RGB", (400, 300), "white"),
        GroundedBox("", (100.0, 100.0, 200.0, 150.0)),
    )
    wide, near = (0, 128, 0), (255, 0, 0)
    outer = draw_boxes(image, [box], colours=[wide], gap=3)
    both = draw_boxes(outer, [box], colours=[near])
    count = {colour: number for number, colour in both.getcolors() or []}
    alone = {colour: number for number, colour in outer.getcolors() or []}
    assert count[wide] == alone[wide] and count[near] > 0


def test_a_quadrilateral_is_drawn_along_its_edges() -> None:
    points = ((100.0, 30.0), (150.0, 80.0), (100.0, 130.0), (50.0, 80.0))
    drawn = draw_boxes(blank(), [GroundedBox("", (50.0, 30.0, 150.0, 130.0), points=points)])
    marks = coloured(drawn)
    assert marks[54:57, 73:78].any() and marks[30, 100] and not marks[80, 100]
    assert not marks[30:40, 50:60].any() and not marks[120:130, 140:150].any()  # corners of its box


def test_equal_labels_share_a_colour() -> None:
    boxes = [
        GroundedBox(label=name, box=(10.0, y, 60.0, y + 20.0))
        for name, y in (("a", 30.0), ("b", 80.0), ("a", 130.0))
    ]
    drawn = draw_boxes(blank(), boxes)
    first, second, third = (drawn.getpixel((62, int(box.box[1]) + 3)) for box in boxes)
    assert first == third == COLOURS[0] and second == COLOURS[1]


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 199.0, 159.0), (150.0, 2.0, 200.0, 160.0), (5.0, 5.0, 5.0, 5.0)]
)
def test_labels_stay_on_the_image(box: tuple[float, float, float, float]) -> None:
    label = draw_boxes(blank(), [GroundedBox(label="a long label", box=box)])
    bare = draw_boxes(blank(), [GroundedBox(label="", box=box)])
    assert (coloured(label) & ~coloured(bare)).sum() > 200


def test_other_modes_become_rgb() -> None:
    drawn = draw_boxes(blank().convert("L"), [GroundedBox(label="x", box=(1.0, 1.0, 50.0, 50.0))])
    assert drawn.mode == "RGB" and coloured(drawn).any()


def test_chinese_labels() -> None:
    assert font_for("合计", 20) is not None, "install the extra synthetic (mplfonts)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chinese = draw_boxes(blank(), [GroundedBox(label="合计", box=(20.0, 60.0, 90.0, 90.0))])
    other = draw_boxes(blank(), [GroundedBox(label="总计", box=(20.0, 60.0, 90.0, 90.0))])
    assert chinese.tobytes() != other.tobytes()  # glyphs, not two equal boxes


def test_a_label_that_no_font_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_candidates", lambda: [])
    with pytest.warns(UserWarning, match=r"no installed font can write the label '合计', .* as #1"):
        drawn = draw_boxes(blank(), [GroundedBox(label="合计", box=(20.0, 60.0, 90.0, 90.0))])
    assert coloured(drawn).any()


def test_a_file_that_is_no_font(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.otf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_candidates", lambda: [tmp_path / "broken.otf"])
    assert font_for("合计", 20) is None
    assert font_for("total", 20) is not None


def test_tiles() -> None:
    tiler = SlidingWindow(tile_size=64, stride=48, multiple_of=16, max_tiles=20)
    plan = tiler.plan(200, 160)
    drawn = draw_tiles(blank(), plan)
    marks = coloured(drawn)
    assert plan.count > 5
    for x0, y0, x1, y1 in plan.boxes[plan.window_slice]:
        row = slice(int(y0), min(int(y1) + 1, 160))
        assert marks[row, int(x0) : int(x0) + 4].any(1).mean() > 0.9
        assert marks[int(y0) : int(y0) + 4, int(x0) : min(int(x1), 200)].any(0).mean() > 0.9
    with pytest.raises(ValueError, match="must belong to the image of 20x20, it is for 200x160"):
        draw_tiles(blank(20, 20), plan)
    assert not coloured(blank()).any()
    half = coloured(draw_tiles(blank(100, 80), plan))  # scaled, and the lines with it
    for x0, y0, _, y1 in plan.boxes[plan.window_slice]:
        row = slice(int(y0 / 2), min(int(y1 / 2) + 1, 80))
        assert half[row, int(x0 / 2) : int(x0 / 2) + 4].any(1).mean() > 0.9
    squashed = draw_tiles(blank(), Squash(tile_size=64).plan(200, 160))
    assert coloured(squashed)[0].all()


def test_the_number_of_a_tile_hides_no_text() -> None:
    """The page has a word in the corner of its only tile."""
    page = blank()
    word = (5, 5, 50, 26)
    ImageDraw.Draw(page).text((6, 4), "Total", font=fonts.default_font(20), fill=(0, 0, 0))
    drawn = draw_tiles(page, Squash(tile_size=64).plan(200, 160))
    assert drawn.crop(word).tobytes() == page.crop(word).tobytes()
    changed = (np.asarray(drawn) != np.asarray(page)).any(-1)
    assert changed[8:-8, 8:-8].any(), "the number is elsewhere"


def test_the_number_of_a_tile_hides_no_other_number() -> None:
    """On the shipped form, number 19 makes room for a line and comes to where number 20 would be."""
    page = Image.open(ASSETS / "form.png").convert("RGB")
    plan = SlidingWindow(tile_size=224, stride=192, multiple_of=16, max_tiles=64).plan(*page.size)
    places: list[tuple[float, float, float, float]] = []

    def note(pen: object, text: str, at: tuple[float, float], font: fonts.Font, _: object) -> None:
        width, height = fonts.label_size(text, font)
        places.append((*at, at[0] + width, at[1] + height))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "write_label", note)
        draw_tiles(page, plan)
    assert len(places) == len(plan.windows)
    for number, one in enumerate(places):
        assert not any(overlap(one, other) for other in places[:number])


def test_a_box_outside_of_its_image_is_drawn_at_the_border() -> None:
    for box in ((300.0, 300.0, 400.0, 400.0), (-50.0, -50.0, -20.0, -20.0)):
        marks = coloured(draw_boxes(blank(), [GroundedBox(label="", box=box)]))
        assert not marks[3:-3, 3:-3].any()


def test_a_small_box_is_magnified_where_nothing_is_covered() -> None:
    image = blank(400, 300)
    ImageDraw.Draw(image).rectangle((300, 100, 319, 105), fill=(0, 0, 200))
    ImageDraw.Draw(image).rectangle((0, 200, 400, 300), fill=(9, 99, 9))
    box = GroundedBox(label="", box=(298.0, 98.0, 322.0, 108.0))
    plain, shown = (draw_boxes(image, [box], insets=insets) for insets in (False, True))
    changed = (np.asarray(plain) != np.asarray(shown)).any(-1)
    blue = (np.asarray(shown) == (0, 0, 200)).all(-1)
    assert blue.sum() > 4 * 20 * 6 and shown.size == image.size
    assert not changed[200:].any() and not changed[96:110, 296:324].any()
    large = GroundedBox(label="", box=(20.0, 20.0, 200.0, 150.0))
    assert draw_boxes(image, [large], insets=True) == draw_boxes(image, [large])
    little = blank(100, 100)
    assert draw_boxes(little, [box], insets=True) == draw_boxes(little, [box])


def test_a_label_stands_beside_its_frame_where_it_covers_least() -> None:
    image = blank(400, 300)
    for x in range(152, 300, 4):
        ImageDraw.Draw(image).line((x, 90, x, 120), fill=(0, 0, 0))
    box = GroundedBox(label="total", box=(120.0, 95.0, 150.0, 112.0))
    bare = draw_boxes(image, [GroundedBox(label="", box=box.box)])
    drawn = draw_boxes(image, [box])
    ys, xs = np.nonzero((np.asarray(drawn) != np.asarray(bare)).any(-1))
    assert xs.max() <= 120 and 85 <= ys.min() and ys.max() <= 122  # on the left, not on the lines


def test_the_canvas_is_drawn_as_the_model_gets_it() -> None:
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    tiler = AnyRes(tile_size=64, grids=[(1, 2), (2, 2)], max_tiles=4, backend="pillow")
    tiles = tiler(image)
    plan = tiles.plan
    drawn = draw_canvas(image, plan, padding=(0, 0, 0), draw_size=max(plan.canvas))
    assert drawn.width > plan.canvas[0] and plan.content[1] > 0  # padded above
    canvas = np.asarray(drawn)[16:, 16:]
    enlarged = canvas.shape[1] // plan.canvas[0]  # each pixel is a square
    assert enlarged >= 1
    sheet = tiles.contact_sheet(tile_side=64)
    assert sheet.width > plan.cols * 64
    assert tiles.images()[0].size == plan.sizes[0] and len(tiles.images()) == plan.count
    pixels = np.asarray(sheet)[8 : 8 + 64, 8 : 8 + 64]
    assert (pixels == np.asarray(tiles.images()[0])).all()


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (30, 3000), (3000, 30), (1200, 900)])
def test_drawings_are_readable_at_any_size(size: tuple[int, int]) -> None:
    plan = SlidingWindow(tile_size=64, stride=64, multiple_of=32, max_tiles=9).plan(*size)
    drawn = draw_canvas(Image.new("RGB", size), plan, draw_size=800)
    assert 120 <= min(drawn.size) and max(drawn.size) < 4 * 800 + 400


def test_windows_that_are_left_out_are_dimmed() -> None:
    plan = SlidingWindow(tile_size=64, stride=64, multiple_of=32, thumbnail=None).plan(128, 64)
    drawn = draw_canvas(blank(128, 64), plan.subset([0]), draw_size=640)
    width = (drawn.width - 32) // 2
    left, right = drawn.getpixel((16 + width // 2, 200)), drawn.getpixel((16 + width * 3 // 2, 200))
    assert left == WHITE and right != WHITE


def test_plans_and_tiles_are_displayed_in_notebooks() -> None:
    tiler = SlidingWindow(tile_size=64, stride=48, multiple_of=16, max_tiles=20)
    tiles = tiler(blank())
    shown = tiles.plan._repr_html_()
    assert shown.count("<rect") == len(tiles.plan.windows) + 2 and "200 x 160 pixels" in shown
    assert 'src="data:image/jpeg;base64,' in tiles._repr_html_()
    assert view_names(tiles.plan)[:2] == ["0  thumbnail", "1  row 0 col 0"]
    native = NativeTiles()(Image.new("RGB", (700, 500)))
    assert len(native.images()) == native.plan.count and native.contact_sheet().width > 100
