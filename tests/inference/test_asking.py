"""Lists, pairs and texts as messages, and tags that must be closed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hdvl.geometry import TilePlan
from hdvl.inference.asking import build_messages, check_tags, check_tiles, open_end
from hdvl.messages import as_messages
from hdvl.protocols import Message
from hdvl.templates import Absolute, ChatML, Norm1000
from hdvl.tilers import Squash
from tests.qwen_golden import GOLDEN

BOXES = Norm1000(quads=True)
# As the revision of the golden file spells it.
TEMPLATE = ChatML(
    numbering="Picture {k}:", image_prefix="<img>", image_token="<imgpad>", image_suffix="</img>"
)


def written(prompt: Any) -> str:
    """What the template makes of a prompt, the images' names where their slots are."""
    (message,) = build_messages(prompt, boxes=BOXES)
    (text,) = TEMPLATE.place_images([message])
    for name in message.images:
        text = text.replace("<imgpad>", name, 1)
    return text


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("one_image", [{"image": "demo.jpeg"}, {"text": "这是什么?"}]),
        ("two_images", [{"image": "a.png"}, {"image": "b.png"}, {"text": "Compare."}]),
        ("box", [{"image": "a.png"}, {"ref": "cat", "box": [(1, 2, 3, 4)]}, {"text": "ok?"}]),
        ("box", [{"image": "a.png"}, {"box": (1, 2, 3, 4), "ref": "cat"}, {"text": "ok?"}]),
    ],
)
def test_published_lists(name: str, items: list[dict[str, Any]]) -> None:
    assert written(items) == GOLDEN["from_list_format"][name]


def test_several_boxes_of_one_label_and_boxes_without() -> None:
    items = [{"ref": "cats", "box": [(1, 2, 3, 4), [5, 6, 7.9, 8]]}, {"box": (0, 0, 9, 9)}]
    expected = "<ref>cats</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box><box>(0,0),(9,9)</box>"
    assert written(items) == expected
    assert written([{"ref": "cat"}, {"text": " where?"}]) == "<ref>cat</ref> where?"
    lists = Norm1000(form="lists")
    (message,) = build_messages([{"box": (1, 2, 3, 4)}], boxes=lists)
    assert message.text == "<box>[[1, 2, 3, 4]]</box>"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [{"photo": "a"}],
            r"item 1 of a prompt must have image, text, or ref and box, got \['photo",
        ),
        ([{"text": "a"}, {"image": "a", "text": "b"}], "item 2 of a prompt"),
        ([{}], r"got \[\]"),
        ([{"box": (1, 2, 3)}], r"box must be 4 numbers, got \[1, 2, 3\]"),
    ],
)
def test_items_that_are_invalid(items: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_messages(items, boxes=BOXES)


def test_boxes_need_a_codec_of_thousandths() -> None:
    with pytest.raises(ValueError, match="this template writes boxes as Absolute"):
        build_messages([{"box": (1, 2, 3, 4)}], boxes=Absolute())


def test_pairs_are_a_history() -> None:
    history = [([{"image": "a.png"}, {"text": "What?"}], "A cat."), ("Color?", "Grey.")]
    messages = build_messages("Sure?", history=history, system="Be brief.", boxes=BOXES)
    assert messages == (
        Message("system", "Be brief."),
        Message("user", "What?", ("a.png",)),
        Message("assistant", "A cat."),
        Message("user", "Color?"),
        Message("assistant", "Grey."),
        Message("user", "Sure?"),
    )
    again = build_messages("Really?", "b.png", history=messages, boxes=BOXES)
    assert again == (*messages, Message("user", "Really?", ("b.png",)))
    with pytest.raises(ValueError, match="system must be given with the first turn"):
        build_messages("?", history=messages, system="Be long.", boxes=BOXES)


def test_a_history_as_openai_writes_it() -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": "What?"},
            ],
        },
        {"role": "assistant", "content": "A cat."},
        Message("user", "Color?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Grey."}]},
    ]
    read = (
        Message("system", "Be brief."),
        Message("user", "What?", ("data:image/png;base64,AA==", "a.png")),
        Message("assistant", "A cat."),
        Message("user", "Color?"),
        Message("assistant", "Grey."),
    )
    assert build_messages("Sure?", history=history, boxes=BOXES) == (
        *read,
        Message("user", "Sure?"),
    )
    assert as_messages(history) == read
    with pytest.raises(ValueError, match="system must be given with the first turn"):
        build_messages("?", history=history[:1], system="Be long.", boxes=BOXES)
    begun = build_messages("?", history=history[2:3], system="Be long.", boxes=BOXES)
    assert begun[0] == Message("system", "Be long.")


@pytest.mark.parametrize(
    "history",
    [
        ["hi", "ho"],
        ("hi", "ho"),
        ("hi", None),
        [("hi", None)],
        [("hi", "ho", "hu")],
        [(5, "ho")],
        [["hi"]],
        "hi",
        5,
        Message("user", "hi"),
        {"role": "user", "content": "hi"},
        [None],
    ],
)
def test_other_histories_are_refused(
    history: Any, unchecked: Callable[[], AbstractContextManager[None]]
) -> None:
    with unchecked(), pytest.raises(ValueError, match="history must be a list of messages"):
        build_messages("?", history=history, boxes=BOXES)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({}, "turn 1 of history: role must be one of .*, got None"),
        ({"role": "tool", "content": "a"}, "turn 1 of history: role must be one of .*, got 'tool'"),
        ({"role": "user"}, "turn 1 of history: content must be text or a list of parts, got None"),
        ({"role": "user", "content": {"type": "text"}}, "content must be text or a list of parts"),
        ({"role": "user", "content": ["hi"]}, "a part must be of type text with its text"),
        ({"role": "user", "content": [{"type": "text"}]}, "a part must be of type text with its"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "with its image"),
        ({"role": "user", "content": [{"type": "audio", "audio": "a"}]}, "got {'type': 'audio'"),
        (
            {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]},
            "turn 1 of history: only the user shows images, not the assistant",
        ),
    ],
)
def test_turns_of_another_form_are_named(turn: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_messages("?", history=[turn], boxes=BOXES)


def test_conversations_of_another_form_are_refused(
    unchecked: Callable[[], AbstractContextManager[None]],
) -> None:
    with unchecked(), pytest.raises(ValueError, match="a conversation must be a list of messages"):
        as_messages("hi")  # type: ignore[arg-type]
    with unchecked(), pytest.raises(ValueError, match="turn 1 of history must be a message, got"):
        as_messages(["hi"])  # type: ignore[list-item]


def test_images_in_text(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    history = [("<img>a.png</img>\nWhat?", "A cat.")]
    old, _, new = build_messages(
        "And <img>b.png</img>?", history=history, boxes=BOXES, image_folder=tmp_path
    )
    assert old == Message("user", "<image>\nWhat?", (tmp_path / "a.png",), numbered=False)
    assert new == Message("user", "And <image>?", (tmp_path / "b.png",), numbered=False)
    # Without the folder it is text, which templates with such tags refuse.
    assert build_messages("<img>a.png</img>", boxes=BOXES)[0].images == ()
    for double in ({"images": "b.png"}, {"images": ["b.png"]}):
        with pytest.raises(
            ValueError, match=r"in the text as <img>path</img> or beside it, not both"
        ):
            build_messages("<img>a.png</img>", boxes=BOXES, image_folder=tmp_path, **double)
    with pytest.raises(ValueError, match="prompt's list or as images=, not in both"):
        build_messages([{"text": "a"}], "a.png", boxes=BOXES)


@pytest.mark.parametrize("tag", ["ref", "box", "quad"])
def test_tags_are_closed(tag: str) -> None:
    check_tags(f"a <{tag}>b</{tag}> <{tag}>c</{tag}>", BOXES.tokens)
    check_tags("<loc_1>", ("<box>", "</box>", "<loc_1>"))  # no tag of a pair
    for text in (
        f"<{tag}>a b",
        f"</{tag}>",
        f"<{tag}><{tag}>a</{tag}></{tag}>",
        f"<{tag}>a</{tag}></{tag}>",
    ):
        with pytest.raises(
            ValueError, match=f"every <{tag}> in a prompt must be closed by </{tag}>"
        ):
            build_messages(text, boxes=BOXES)
    assert build_messages(f"<{tag}>a", boxes=Absolute())  # no tag of this codec


def test_a_box_may_be_left_to_the_model() -> None:
    """As Qwen-VL's evaluation of referring expressions asks."""
    prompt = "<ref>the cat</ref><box>"
    assert build_messages(prompt, boxes=BOXES)[0].text == prompt
    assert open_end(prompt) == prompt and open_end("see <quad>") == "<quad>"
    assert open_end("<box>(1,2),(3,4)</box>") == "" == open_end("")
    with pytest.raises(ValueError, match="every <ref> in a prompt must be closed"):
        build_messages("the <ref>", boxes=BOXES)


def test_tiles_are_counted_twice() -> None:
    plans: list[TilePlan] = [Squash(tile_size=8).plan(8, 8)] * 2
    check_tiles(plans, None)
    check_tiles(plans, (1, 1))
    with pytest.raises(ValueError, match=r"each image, \[1, 1\] by this tiler, got \[7, 1\]"):
        check_tiles(plans, [7, 1])
