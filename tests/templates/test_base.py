"""Positions of images in the text."""

import pytest

from hdvl.protocols import Message
from hdvl.templates import ImageSlots, Unit


def test_images_stand_where_the_text_says_or_in_front() -> None:
    slots = ImageSlots(image_token="<i>")
    messages = [
        Message("user", "a<image>b <image>", images=(1, 2)),
        Message("assistant", "none"),
        Message("user", "front", images=(3, 4)),
    ]
    assert slots.place_images(messages) == ["a<i>b <i>", "none", "<i>\n<i>\nfront"]


def test_the_placeholder_may_be_the_token() -> None:
    slots = ImageSlots(image_token="<image>")
    assert slots.place_images([Message("user", "a <image>", images=(1,))]) == ["a <image>"]


def test_every_placeholder_needs_its_image() -> None:
    with pytest.raises(ValueError, match=r"message 0 \(user\) must have as many <image> as"):
        ImageSlots().place_images([Message("user", "what is <image> in html?")])
    with pytest.raises(ValueError, match="got 1 in its text and 2 images: '<image>a'"):
        ImageSlots().place_images([Message("user", "<image>a", images=(1, 2))])


def test_tokens_of_images_and_boxes() -> None:
    assert ImageSlots(boxes=Unit()).image_tokens == ("<|image_pad|>",)
    slots = ImageSlots(image_prefix="<img>", image_suffix="</img>")
    assert slots.image_tokens[:3] == ("<img>", "<|image_pad|>", "</img>")


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="image_token must be text without outer spaces, got ' '"):
        ImageSlots(image_token=" ")
    with pytest.raises(ValueError, match=r"numbering must hold \{k\}"):
        ImageSlots(numbering="Picture: ")


def test_a_single_image_may_go_without_its_number() -> None:
    slots = ImageSlots(image_token="<v>", numbering="Image-{k}: ", number_single=False)
    one, two = Message("user", "A?", images=("a",)), Message("user", "B?", images=("b",))
    assert slots.place_images([one]) == ["<v>\nA?"]
    assert slots.place_images([one, two]) == ["Image-1: <v>\nA?", "Image-2: <v>\nB?"]
    written = Message("user", "Image-1: <image>\nImage-2: <image>\nSame?", images=("a", "b"))
    assert slots.place_images([written]) == ["Image-1: <v>\nImage-2: <v>\nSame?"]
