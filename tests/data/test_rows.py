"""Conversion of rows to conversations: three formats of turns, images, inline tags and faults."""

import json

import pytest

from hdvl.conversation import Message
from hdvl.data.rows import RowError, to_messages

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "conversations": TURNS},
        {"images": ["a.png"], "conversations": json.dumps(TURNS)},
        {"image": "a.png", "texts": [{"user": "<image>\nWhat?", "assistant": "This."}]},
    ],
)
def test_shapes_of_rows_give_one_conversation(row):
    messages = to_messages(row)
    said = [(m.role, m.text, m.images) for m in messages]
    assert said == [("user", "<image>\nWhat?", ("a.png",)), ("assistant", "This.", ())]


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "texts": [{"user": "What?", "assistant": "This."}]},
        {
            "images": ["a.png"],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": "What?"}],
                },
                {"role": "assistant", "content": "This."},
            ],
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "a.png", "text": None},
                        {"type": "text", "text": "What?", "image": None},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "This."}]},
            ],
        },
    ],
)
def test_an_image_before_the_text_is_left_to_the_template(row):
    assert to_messages(row) == [Message("user", "What?", ("a.png",)), Message("assistant", "This.")]


def test_images_go_to_the_turns_that_name_them():
    turns = [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": "<image>?"},
        {"from": "gpt", "value": "A."},
        {"from": "human", "value": "And <image> or <image>?"},
        {"from": "gpt", "value": "B."},
    ]
    messages = to_messages({"image": ["a", "b", "c"], "conversations": turns})
    assert [m.images for m in messages] == [(), ("a",), (), ("b", "c"), ()]
    assert messages[0].role == "system"


def test_parts_hold_images_or_stand_for_those_of_the_row():
    content = [
        {"type": "image"},
        {"type": "text", "text": "and"},
        {"type": "image", "image": "b"},
        {"type": "image_url", "image_url": {"url": "c"}},
        {"type": "image_url", "image_url": "d", "image": None},
    ]
    row = {"messages": [{"role": "user", "content": content}], "images": ["a"]}
    (message,) = to_messages(row)
    assert message.text == "and<image><image><image>" and message.leading == 1
    assert message.images == ("a", "b", "c", "d")


def test_a_mark_in_the_text_of_a_part_takes_an_image_of_the_row():
    content = [{"type": "text", "text": "In <image>, what?"}]
    (message,) = to_messages({"messages": [{"role": "user", "content": content}], "images": ["a"]})
    assert message == Message("user", "In <image>, what?", ("a",))


def test_without_a_mark_all_images_are_of_the_first_user_turn():
    turns = [{"from": "system", "value": "x"}, *[{"from": "human", "value": "Q"}, TURNS[1]] * 2]
    messages = to_messages({"image": ["a", "b"], "conversations": turns})
    assert [m.images for m in messages] == [(), ("a", "b"), (), (), ()]


def test_inline_images_are_taken_out_of_the_text():
    text = "Picture 1: <img>x/a.jpg</img>\nPicture 2: <img> b.jpg </img>\nDiffer?"
    turns = [{"from": "user", "value": text}, {"from": "assistant", "value": "Yes."}]
    first, _ = to_messages({"conversations": turns}, inline=True)
    assert first.text == "Picture 1: <image>\nPicture 2: <image>\nDiffer?"
    assert first.images == ("x/a.jpg", "b.jpg") and not first.numbered


@pytest.mark.parametrize(
    ("row", "fault", "message"),
    [
        ([], "row", "must be a mapping"),
        ({"id": 1}, "row", "one of conversations, messages, texts, got .'id'"),
        ({"conversations": []}, "row", "a list of turns"),
        ({"conversations": "[{"}, "row", "JSON of one"),
        ({"conversations": [{"from": "human"}]}, "row", "another structure, KeyError"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "row", "from must be one of"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "row", "must be a string, got 3"),
        ({"conversations": TURNS, "image": ["a", "b"]}, "placeholder", "2 images but 1"),
        ({"conversations": TURNS}, "placeholder", "0 images but 1"),
        ({"conversations": TURNS[1:], "image": "a"}, "placeholder", "no user turn"),
        ({"conversations": TURNS, "video": "a.mp4"}, "row", "video='a.mp4'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "row",
            "got .'type': 'audio'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "row",
            "with its image",
        ),
    ],
)
def test_faults_are_named(row, fault, message):
    with pytest.raises(RowError, match=message) as caught:
        to_messages(row)
    assert caught.value.fault == fault


@pytest.mark.parametrize("text", ["<img>a.jpg", "a</img>", "<img>a</img> <image>"])
def test_inline_faults_are_named(text):
    with pytest.raises(RowError) as caught:
        to_messages({"conversations": [{"from": "user", "value": text}]}, inline=True)
    assert caught.value.fault == "placeholder"
