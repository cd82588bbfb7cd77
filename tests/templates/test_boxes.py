"""Boxes to text and back."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from hdvl.protocols import Box, BoxCodec, GroundedBox
from hdvl.templates import Absolute, Norm1000, Unit

CODECS = [
    Norm1000(),
    Norm1000(divisor=999),
    Norm1000(form="lists"),
    Norm1000(form="locations"),
    Unit(),
    Unit(digits=2),
    Absolute(),
]


@pytest.mark.parametrize("codec", CODECS)
def test_there_and_back(codec: Norm1000 | Unit | Absolute) -> None:
    assert isinstance(codec, BoxCodec)
    draw = random.Random(0)
    for _ in range(200):
        width, height = draw.randint(1, 5000), draw.randint(1, 5000)
        xs = sorted(draw.uniform(0, width) for _ in range(2))
        ys = sorted(draw.uniform(0, height) for _ in range(2))
        box = (xs[0], ys[0], xs[1], ys[1])
        text = codec.encode(box, width, height, label="a sign")
        (found,) = codec.decode(f"There: {text}.", [(width, height)])
        coarse = 0.0101 if codec == Unit(digits=2) else 0.00101
        error = [coarse * width, coarse * height] * 2
        if isinstance(codec, Absolute):
            error = [0.5001] * 4
        assert all(abs(a - b) <= e for a, b, e in zip(found.box, box, error, strict=True))
        assert found.image == 0
        assert found.label == ("There: a sign" if not codec.tokens else "a sign")
        assert 0 <= found.box[0] <= found.box[2] <= width
        assert 0 <= found.box[1] <= found.box[3] <= height


def test_qwen_vls_published_example() -> None:
    text = "<ref>击掌</ref><box>(536,509),(588,602)</box>"
    (found,) = Norm1000().decode(text, [(1000, 500)])
    assert found == GroundedBox("击掌", (536.0, 254.5, 588.0, 301.0))
    assert Norm1000().encode((536, 254.5, 588, 301), 1000, 500, label="击掌") == text
    (found,) = Norm1000(divisor=999).decode("<box>(0,0),(999,999)</box>", [(64, 32)])
    assert found.box == (0.0, 0.0, 64.0, 32.0)


def test_the_whole_image_stays_in_three_digits() -> None:
    assert Norm1000().encode((0, 0, 64, 32), 64, 32) == "<box>(0,0),(999,999)</box>"
    assert Unit().encode((-5, 0, 70, 32), 64, 32) == "[0.000, 0.000, 1.000, 1.000]"
    assert Absolute().encode((-5, 0, 70, 32), 64, 32) == "[0, 0, 64, 32]"


def test_several_boxes_share_a_label() -> None:
    text = (
        "<ref>cats</ref><box>(0,0),(100,100)</box><box>(200,200),(300,300)</box> and "
        "<ref> dog </ref><box> ( 1 , 2 ) , ( 3 , 4 ) </box>"
    )
    found = Norm1000().decode(text, [(1000, 1000)])
    assert [f.label for f in found] == ["cats", "cats", "dog"]
    assert found[2].box == (1, 2, 3, 4)
    text = "a cat [0.1, 0.2, 0.3, 0.4] and a dog: [0.5, 0.5, 0.6, 0.6]"
    found = Unit().decode(text, [(10, 10)])
    assert [f.label for f in found] == ["a cat", "and a dog"]


def test_quadrilaterals_keep_their_points() -> None:
    text = "<ref>出口</ref><quad>(100,200),(300,210),(290,400),(90,390)</quad> and <quad>bad</quad>"
    boxes, errors = Norm1000().decode_with_errors(text, [(1000, 500)])
    points = ((100.0, 100.0), (300.0, 105.0), (290.0, 200.0), (90.0, 195.0))
    assert boxes == [GroundedBox("出口", (90.0, 100.0, 300.0, 200.0), points=points)]
    assert errors == ["<quad>bad</quad>"]
    outside = Norm1000(divisor=999).decode("<quad>(-5,0),(999,1200),(1,1),(2,2)</quad>", [(64, 32)])
    assert outside[0].points[:2] == ((0.0, 0.0), (64.0, 32.0))
    assert Norm1000(quads=True).tokens[4:] == ("<quad>", "</quad>")


def test_internvls_lists() -> None:
    codec = Norm1000(form="lists")
    text = codec.encode((100, 50, 300, 100), 1000, 500, label="cat")
    assert text == "<ref>cat</ref><box>[[100, 100, 300, 200]]</box>"
    several = "<ref>cats</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box><box>[9, 10, 11, 12]</box>"
    found = Norm1000().decode(several, [(1000, 1000)])
    assert [f.box for f in found] == [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]
    assert {f.label for f in found} == {"cats"}
    assert codec.decode("Image-1: <box>[[0, 0, 1, 1]]</box>", [(10, 10)] * 2)[0].image == 0


def test_locations_are_one_token_a_number() -> None:
    codec = Norm1000(form="locations")
    text = codec.encode((100, 50, 300, 100), 1000, 500, label="cat")
    assert text == "<ref>cat</ref><box><loc_100><loc_100><loc_300><loc_200></box>"
    assert len(codec.tokens) == 4 + 1000
    assert {f"<loc_{value}>" for value in (0, 100, 300, 999)} <= set(codec.tokens)
    (found,) = Norm1000().decode(text, [(1000, 500)])
    assert found == GroundedBox("cat", (100.0, 50.0, 300.0, 100.0))
    for wrong in ("<loc_1><loc_2><loc_3>", "<loc_1><loc_2><loc_3><loc_1000>", "<loc_1>(2,3)"):
        boxes, errors = codec.decode_with_errors(f"<box>{wrong}</box>", [(1000, 500)])
        assert boxes == [] and errors == [f"<box>{wrong}</box>"]


def test_drawing_divides_by_1000_and_scoring_by_999() -> None:
    """The two differ by a thousandth of the side, as published for Qwen-VL."""
    text, sizes = "<box>(0,0),(999,500)</box>", [(2000, 1000)]
    drawn, scored = Norm1000().decode(text, sizes)[0], Norm1000(divisor=999).decode(text, sizes)[0]
    assert drawn.box == (0, 0, 1998, 500)
    assert scored.box == pytest.approx((0, 0, 2000, 500.5005))


@pytest.mark.parametrize("codec", CODECS)
def test_images_are_numbered_from_one_in_text(codec: Norm1000 | Unit | Absolute) -> None:
    sizes = [(100, 100), (200, 200), (400, 400)]
    text = codec.encode((10, 10, 20, 20), 100, 100, label="x", image=0)
    assert text.startswith("Picture 1: ")
    text += "; " + codec.encode((100, 100, 200, 200), 200, 200, image=1)
    found = codec.decode(text, sizes)
    assert [f.image for f in found] == [0, 1]
    assert found[0].label == "x"
    assert found[1].box == pytest.approx((100, 100, 200, 200), abs=0.5)
    unnumbered = codec.encode((1, 1, 2, 2), 400, 400)
    assert codec.decode(unnumbered, sizes)[0].image == 2


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("<box>(1,2),(3)</box>", ["<box>(1,2),(3)</box>"]),
        ("<box>(1,2),(3,4)", ["<box>(1,2),(3,4)"]),
        ("<box></box>", ["<box></box>"]),
        ("<box>(a,b),(c,d)</box> <box>(1,2),(3,4)</box>", ["<box>(a,b),(c,d)</box>"]),
        ("<ref>x<box>(1,2),(3,4)</box>", ["<ref>"]),
        ("Picture 5: <box>(1,2),(3,4)</box>", ["<box>(1,2),(3,4)</box>"]),
        ("<ref>a</ref> no box", []),
        ("<quad>(1,2),(3,4)</quad>", ["<quad>(1,2),(3,4)</quad>"]),
        ("<quad>(1,2),(3,4),(5,6),(7,8)</box>", ["<quad>(1,2),(3,4),(5,6),(7,8)"]),
        ("<box>[[1, 2, 3]]</box>", ["<box>[[1, 2, 3]]</box>"]),
        ("<box>[[1, 2, 3, 4], [5]]</box>", ["<box>[[1, 2, 3, 4], [5]]</box>"]),
        ("<box>1,2,3,4</box>", ["<box>1,2,3,4</box>"]),
        ("", []),
    ],
)
def test_malformed_tags_are_given_back(text: str, errors: list[str]) -> None:
    boxes, found = Norm1000().decode_with_errors(text, [(1000, 1000)])
    assert found == errors
    assert len(boxes) == text.count("(1,2),(3,4)</box>") - ("Picture" in text)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("[0.1, 0.2, 0.3]", ["[0.1, 0.2, 0.3]"]),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", ["[0.1, 0.2, 0.3, 0.4, 0.5]"]),
        ("cut [0.1, 0.2", ["[0.1, 0.2"]),
        ("Picture 0: [0.1, 0.2, 0.3, 0.4]", ["[0.1, 0.2, 0.3, 0.4]"]),
        ("see [1], [note, 2] and [a]", []),
    ],
)
def test_malformed_brackets_are_given_back(text: str, errors: list[str]) -> None:
    assert Unit().decode_with_errors(text, [(10, 10)]) == ([], errors)


@pytest.mark.parametrize(
    ("codec", "text", "box"),
    [
        (Norm1000(), "<box>(-5,1200),(500,-1)</box>", (0, 0, 50, 100)),
        (Unit(), "[1.5, -0.2, 0.5, 0.1]", (50, 0, 100, 10)),
        (Absolute(), "[150, -2, 50, 10]", (50, 0, 100, 10)),
    ],
)
def test_boxes_are_clipped_and_put_in_order(codec: BoxCodec, text: str, box: Box) -> None:
    (found,) = codec.decode(text, [(100, 100)])
    assert found.box == box


def test_no_image_no_box() -> None:
    assert Norm1000().decode_with_errors("<box>(1,2),(3,4)</box>", []).errors == [
        "<box>(1,2),(3,4)</box>"
    ]


def test_bad_values(unchecked: Callable[[], AbstractContextManager[None]]) -> None:
    with pytest.raises(ValueError, match="divisor must be 999 or 1000, got 100"):
        Norm1000(divisor=100)
    form: Any = "polar"
    with (
        unchecked(),
        pytest.raises(ValueError, match="form must be corners, lists or locations, got 'polar'"),
    ):
        Norm1000(form=form)
    with pytest.raises(ValueError, match="digits must be at least 1, got 0"):
        Unit(digits=0)
    with pytest.raises(ValueError, match="at least 1x1, got 0x5"):
        Absolute().encode((0, 0, 1, 1), 0, 5)
    with pytest.raises(ValueError, match=r"x0 <= x1 and y0 <= y1, got \(3, 0, 1, 1\)"):
        Unit().encode((3, 0, 1, 1), 5, 5)
