"""Boxes in text: what is wrong with them, and other ways of writing them."""

import pytest

from hdvl.data.boxes import box_faults, holds_boxes, rewrite_boxes, wrong_boxes
from hdvl.templates import Absolute, Norm1000, Unit

SIZES = [(400, 200)]


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (Norm1000(), "<ref>a</ref><box>(0,0),(999,999)</box><box>( 10, 20 ),(30,40)</box>"),
        (Norm1000(), "<box>(0,0),(1000,1000)</box>"),
        (Norm1000(), "<box>(30,40),(10,20)</box>"),
        (Norm1000(form="lists"), "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>"),
        (Norm1000(), "<quad>(10,10),(90,12),(88,50),(9,49)</quad>"),
        (Norm1000(), "plain [1, 2, 3000, 4] and [0, 1]"),
        (Unit(), "cat [0.1, 0.25, 0.999, 1.0] and [12] and [0, 1]"),
        (Unit(), "<box>(5000,0),(1,2)</box> is but text"),
        (Absolute(), "cat [0, 10, 400, 200]"),
    ],
)
def test_right_boxes_are_right(codec, text):
    assert wrong_boxes(text, codec, SIZES) == []


@pytest.mark.parametrize(
    ("codec", "text", "wrong"),
    [
        (Norm1000(), "<box>(0,0),(1200,9)</box>", "<box>(0,0),(1200,9)</box>"),
        (Norm1000(), "<box>(-5,0),(12,9)</box>", "<box>(-5,0),(12,9)</box>"),
        (Norm1000(), "<box>(0,0),(12)</box>", "<box>(0,0),(12)</box>"),
        (Norm1000(), "<box>(0,0),(12,9)", "<box>(0,0),(12,9)"),
        (Norm1000(), "x <box>[[1, 2, 3, 4], [5, 6, 7000, 8]]</box>", None),
        (Norm1000(), "<quad>(10,10),(90,12),(88,5000),(9,49)</quad>", None),
        (Unit(), "a [0.1, 0.2, 0.3, 1.4]", "[0.1, 0.2, 0.3, 1.4]"),
        (Absolute(), "a [0, 10, 401, 203]", "[0, 10, 401, 203]"),
    ],
)
def test_wrong_boxes_are_found(codec, text, wrong):
    found = wrong_boxes(text, codec, SIZES)
    assert len(found) == 1
    assert wrong is None or found == [wrong]


def test_a_box_without_an_image_is_wrong():
    assert wrong_boxes("<box>(1,2),(3,4)</box>", Norm1000(), []) == ["<box>(1,2),(3,4)</box>"]


def test_boxes_are_of_the_image_named_before_them():
    text = "Picture 2: [0, 0, 90, 10] Picture 1: [0, 0, 90, 10]"
    sizes = [(50, 50), (100, 100)]
    assert wrong_boxes(text, Absolute(), sizes) == ["[0, 0, 90, 10]"]
    assert rewrite_boxes(text, Absolute(), Norm1000(), sizes) == (
        "Picture 2: <box>(0,0),(900,100)</box> Picture 1: <box>(0,0),(999,200)</box>"
    )


def test_quadrilaterals_stay_where_they_are_read():
    text = "<quad>(10,10),(90,12),(88,50),(9,49)</quad>"
    assert rewrite_boxes(text, Norm1000(), Norm1000(form="lists"), SIZES) == text
    assert rewrite_boxes(text, Norm1000(), Unit(), SIZES) == "[0.009, 0.010, 0.090, 0.050]"


def test_what_is_no_box_stays():
    text = "<box>(1,2)</box> and [0, 1] and <ref>x</ref>"
    assert rewrite_boxes(text, Norm1000(), Unit(), SIZES) == text
    assert holds_boxes("a <box>(1,2),(3,4)</box>") and not holds_boxes("see [3, 4]")


@pytest.mark.parametrize(
    ("codec", "text", "fault"),
    [
        (Norm1000(), "<box>(10,10),(10,90)</box>", "has no area"),
        (Norm1000(), "<box>(10,90),(50,90)</box>", "has no area"),
        (Unit(), "[0.5, 0.5, 0.5, 0.5]", "has no area"),
        (Absolute(), "[3, 4, 30, 4]", "has no area"),
        (Norm1000(), "<box>(１０,10),(50,90)</box>", "must be written with the digits 0 to 9"),
        (Absolute(), "[３, ４, ３０, ４０]", "must be written with the digits 0 to 9"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_boxes_without_area_or_in_other_digits_are_faults(codec, text, fault, declared):
    assert box_faults(text, codec, [(100, 100)], declared=declared) == [f"{text!r} {fault}"]


def test_labels_may_have_other_digits():
    text = "<ref>第１行</ref><box>(10,10),(50,90)</box>"
    assert box_faults(text, Norm1000(), [(100, 100)], declared=True) == []
