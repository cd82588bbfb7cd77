"""InternVL's meta file: repetitions, fractions, several images, folders."""

import json

import pytest

from hdvl.data.readers import InternVLConversations


def write(tmp_path, meta, rows=4):
    for name in meta:
        lines = []
        for number in range(rows):
            turns = [
                {"from": "human", "value": "<image>\n<image>\nWhich?"},
                {"from": "gpt", "value": f"{name}{number}"},
            ]
            row = {"id": number, "image": ["1.png", "b/2.png"], "conversations": turns}
            lines.append(json.dumps(row))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        meta[name] = {"root": f"{name}/images", "annotation": f"{name}.jsonl"} | meta[name]
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(meta))
    return {"path": str(path), "folder": str(tmp_path)}


def answers(data):
    return [data[index][1].text for index in range(len(data))]


def test_files_are_repeated_and_cut_as_the_meta_file_says(tmp_path):
    meta = {
        "a": {"repeat_time": 2, "length": 4, "data_augment": False},
        "b": {"repeat_time": 0.5},
        "c": {},
        "d": {"repeat_time": 1.25},
    }
    data = InternVLConversations(**write(tmp_path, meta))
    whole = {name: [f"{name}{i}" for i in range(4)] for name in "abcd"}
    assert answers(data) == whole["a"] * 2 + ["b0", "b1"] + whole["c"] + [*whole["d"], "d0"]
    assert data[8][0].images == (
        tmp_path / "b/images/1.png",
        tmp_path / "b/images/b/2.png",
    )
    assert data.name(9) == f"row 1 (id 1) of {tmp_path / 'b.jsonl'}"
    with pytest.raises(IndexError, match=r"19 is not in 0..18"):
        data[19]


def test_the_number_of_tiles_of_the_meta_file_is_reported(tmp_path):
    meta = {"a": {"data_augment": True}, "b": {"max_dynamic_patch": 6}}
    arguments = write(tmp_path, meta)
    with pytest.warns(UserWarning, match=r"a.data_augment, b.max_dynamic_patch ignored"):
        assert len(InternVLConversations(**arguments)) == 8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"repeat_time": 0}, "a: repeat_time must be a number above 0, got 0"),
        ({"repeat_time": "2"}, "repeat_time must be a number"),
        ({"repeat_time": 0.1}, "repeat_time=0.1 must keep at least one of 4 rows"),
        ({"repeat_times": 2}, r"a has unknown fields \['repeat_times'\]"),
        ({"annotation": None}, "a must have an annotation"),
        ({"annotation": "none.jsonl"}, "none.jsonl.*is no file"),
    ],
)
def test_faulty_meta_files_are_named(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        InternVLConversations(**write(tmp_path, {"a": entry}))


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_a_meta_file_is_an_object(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match="must be a JSON object"):
        InternVLConversations(path=str(tmp_path / "meta.json"))
