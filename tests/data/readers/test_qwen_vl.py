"""Qwen-VL's files: images and boxes in the text, and the same boxes for other templates."""

import json

import pytest
from PIL import Image

from hdvl.data.readers import QwenVLConversations
from hdvl.templates import Absolute, ChatML, Norm1000, Unit

QUESTION = "Picture 1: <img>a.png</img>\nPicture 2: <img>b.png</img>\nFind the cat."
ANSWER = "Picture 1: <ref>the cat</ref><box>(100,200),(500,600)</box><box>(0,0),(10,10)</box>."


@pytest.fixture
def read(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "b.png")
    turns = [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": ANSWER}]
    (tmp_path / "data.json").write_text(json.dumps([{"id": "x", "conversations": turns}]))

    def read(**options):
        data = QwenVLConversations(
            path=str(tmp_path / "data.json"), image_folder=str(tmp_path), **options
        )
        return data[0]

    return read


def test_it_is_rendered_as_it_was_written(read):
    template = ChatML(
        system="",
        numbering="Picture {k}: ",
        image_prefix="<img>",
        image_token="<imgpad>",
        image_suffix="</img>",
        boxes=Norm1000(quads=True),
    )
    text = template.render(read(boxes=template.boxes, written=Norm1000(quads=True))).text
    said = QUESTION.replace("a.png", "<imgpad>").replace("b.png", "<imgpad>")
    assert f"<|im_start|>user\n{said}<|im_end|>" in text
    assert ANSWER in text


def test_boxes_are_written_for_the_template(read):
    text = read(boxes=Unit(), written=Norm1000())[1].text
    assert text == ("Picture 1: the cat [0.100, 0.200, 0.500, 0.600][0.000, 0.000, 0.010, 0.010].")
    assert read(boxes=Absolute(), written=Norm1000())[1].text == (
        "Picture 1: the cat [20, 20, 100, 60][0, 0, 2, 1]."
    )
    lists = read(boxes=Norm1000(form="lists"), written=Norm1000())[1].text
    assert lists == ANSWER.replace("(100,200),(500,600)", "[[100, 200, 500, 600]]").replace(
        "(0,0),(10,10)", "[[0, 0, 10, 10]]"
    )


def test_without_written_the_text_is_left_alone(read):
    assert read(boxes=Unit())[1].text == ANSWER
    assert read()[0].images[1].name == "b.png"
