"""LLaVA-style files, with and without faults."""

import json

import pytest

from hdvl.data.readers import LlavaConversations
from hdvl.data.rows import RowError

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ["a", "b"]}, "row 0 .id a.*2 images but 1 <image> marks"),
        ({"conversations": [{"from": "bot", "value": "x"}], "image": []}, "from must be one of"),
        ({"conversations": None}, "row 0"),
        ({"image": [{"bytes": None, "path": None}]}, "an image must be a path or bytes"),
    ],
)
def test_faulty_rows_are_named(tmp_path, change, message):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{**ROW, **change}]))
    data = LlavaConversations(path=str(path))
    with pytest.raises(RowError, match=message):
        data[0]
    with pytest.raises(IndexError, match=r"row 1 is not in 0..0 of .*data.json"):
        data[1]


def test_a_broken_line_is_a_faulty_row(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(ROW) + "\n{broken\n")
    data = LlavaConversations(path=str(path))
    with pytest.raises(RowError, match=r"row 1 of .*data.jsonl: .* row 1 is neither"):
        data[1]


def test_urls_are_not_changed(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{**ROW, "image": "https://example.com/a.png"}]))
    assert LlavaConversations(path=str(path))[0][0].images == ("https://example.com/a.png",)
