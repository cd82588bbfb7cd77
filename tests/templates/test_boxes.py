"""Boxes to text and back."""

import random

import pytest

from hdvl.protocols import Box, BoxCodec, GroundedBox
from hdvl.templates import Absolute, Norm1000, Unit

CODECS = [Norm1000(), Norm1000(divisor=999), Unit(), Unit(digits=2), Absolute()]


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


def test_the_whole_picture_stays_in_three_digits() -> None:
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


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_are_numbered_from_one_in_text(codec: Norm1000 | Unit | Absolute) -> None:
    sizes = [(100, 100), (200, 200), (400, 400)]
    text = codec.encode((10, 10, 20, 20), 100, 100, label="x", picture=0)
    assert text.startswith("Picture 1: ")
    text += "; " + codec.encode((100, 100, 200, 200), 200, 200, picture=1)
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


def test_no_picture_no_box() -> None:
    assert Norm1000().decode_with_errors("<box>(1,2),(3,4)</box>", []).errors == [
        "<box>(1,2),(3,4)</box>"
    ]


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="divisor must be 999 or 1000, got 100"):
        Norm1000(divisor=100)
    with pytest.raises(ValueError, match="digits must be at least 1, got 0"):
        Unit(digits=0)
    with pytest.raises(ValueError, match="at least 1x1, got 0x5"):
        Absolute().encode((0, 0, 1, 1), 0, 5)
    with pytest.raises(ValueError, match=r"x0 <= x1 and y0 <= y1, got \(3, 0, 1, 1\)"):
        Unit().encode((3, 0, 1, 1), 5, 5)
