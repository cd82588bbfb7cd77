"""Conversations: synthetic ones, and LLaVA-style files with their faults."""

import json

import pytest

from hdvl.data.conversations import LlavaConversations, SyntheticConversations
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.templates import Norm1000


def synthetic(**options):
    documents = SyntheticDocuments(seed=0, width=(300, 400), height=(240, 300), entries=(2, 4))
    return SyntheticConversations(documents=documents, boxes=Norm1000(), **options)


def test_a_synthetic_conversation_has_its_picture_in_the_first_turn():
    messages = synthetic(turns=3)[4]
    assert [message.role for message in messages[:2]] == ["user", "assistant"]
    assert len(messages[0].images) == 1
    assert all(not message.images for message in messages[1:])
    assert len(messages) <= 6


def test_it_follows_from_the_index():
    one, other = synthetic()[7], synthetic()[7]
    assert [m.text for m in one] == [m.text for m in other]


def test_comparison_shows_two_pictures():
    messages = synthetic(compare_share=1.0)[0]
    assert len(messages) == 2 and len(messages[0].images) == 2


def test_wrong_shares_and_indices_are_refused():
    with pytest.raises(ValueError, match=r"locate_share must be in 0..1, got 2.0"):
        synthetic(locate_share=2.0)
    with pytest.raises(ValueError, match="length and turns must be at least 1"):
        synthetic(turns=0)
    with pytest.raises(IndexError, match="conversation 5 is not in"):
        synthetic(length=5)[5]


ROW = {
    "id": "a",
    "image": "one.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "This."},
    ],
}


@pytest.mark.parametrize("lines", [False, True])
def test_llava_files_as_array_and_as_lines(tmp_path, lines):
    path = tmp_path / "data.json"
    rows = [ROW, {**ROW, "id": "b", "image": ["x.png"]}]
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    data = LlavaConversations(path=str(path), image_folder=str(tmp_path))
    assert len(data) == 2
    first = data[0]
    assert [(m.role, m.text) for m in first] == [("user", "<image>\nWhat?"), ("assistant", "This.")]
    assert first[0].images == (tmp_path / "one.png",)
    assert data[1][0].images == (tmp_path / "x.png",)


def test_a_picture_without_mark_belongs_to_the_first_user_turn(tmp_path):
    path = tmp_path / "data.json"
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    path.write_text(json.dumps([{"image": ["a", "b"], "conversations": turns * 2}]))
    messages = LlavaConversations(path=str(path))[0]
    assert [len(message.images) for message in messages] == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ["a", "b"]}, "row 0 .id a.*2 pictures but 1 <image> marks"),
        ({"conversations": [{"from": "bot", "value": "x"}], "image": []}, "from must be one of"),
        ({"conversations": None}, "row 0"),
    ],
)
def test_faulty_rows_are_named(tmp_path, change, message):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{**ROW, **change}]))
    data = LlavaConversations(path=str(path))
    with pytest.raises(ValueError, match=message):
        data[0]


def test_faulty_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="path must be a JSON or JSONL file"):
        LlavaConversations(path=str(tmp_path / "none.json"))
    broken = tmp_path / "broken.json"
    broken.write_text("[{")
    with pytest.raises(ValueError, match="must hold a JSON array or JSON lines"):
        LlavaConversations(path=str(broken))
    broken.write_text("[]")
    with pytest.raises(ValueError, match="holds no conversations"):
        LlavaConversations(path=str(broken))
