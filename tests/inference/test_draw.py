"""Boxes and grids land where they belong, and labels are legible or said not to be."""

import warnings

import numpy as np
import pytest
from PIL import Image

from hdvl.inference import draw
from hdvl.inference.draw import COLOURS, draw_boxes, draw_tiles, font_for
from hdvl.protocols import GroundedBox
from hdvl.tilers import SlidingWindow, Squash

WHITE = (255, 255, 255)


def blank(width: int = 200, height: int = 160) -> Image.Image:
    return Image.new("RGB", (width, height), WHITE)


def coloured(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) != 255).any(-1)


def test_an_outline_surrounds_its_box() -> None:
    source = blank()
    drawn = draw_boxes(source, [GroundedBox(label="", box=(40.0, 30.0, 90.0, 80.0))])
    ys, xs = np.nonzero(coloured(drawn))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (38, 28, 92, 82)
    assert not coloured(drawn)[30:80, 40:90].any() and drawn.getpixel((39, 55)) == COLOURS[0]
    assert not coloured(source).any()  # a copy


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
    first, second, third = (drawn.getpixel((60, int(box.box[1]) + 10)) for box in boxes)
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
    monkeypatch.setattr(draw, "_candidates", lambda: [])
    with pytest.warns(UserWarning, match=r"no installed font can write the label '合计', .* as #1"):
        drawn = draw_boxes(blank(), [GroundedBox(label="合计", box=(20.0, 60.0, 90.0, 90.0))])
    assert coloured(drawn).any()


def test_a_file_that_is_no_font(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.otf").write_bytes(b"no font")
    monkeypatch.setattr(draw, "_candidates", lambda: [tmp_path / "broken.otf"])
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


def test_a_box_outside_of_its_image_is_drawn_at_the_border() -> None:
    for box in ((300.0, 300.0, 400.0, 400.0), (-50.0, -50.0, -20.0, -20.0)):
        marks = coloured(draw_boxes(blank(), [GroundedBox(label="", box=box)]))
        assert not marks[3:-3, 3:-3].any()
