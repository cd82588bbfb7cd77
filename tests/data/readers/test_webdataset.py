"""WebDataset tar shards: keys, images, captions, rows at random."""

import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from hdvl.data.readers import WebDatasetConversations
from hdvl.data.rows import RowError


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def row(answer, marks=1):
    turns = [
        {"from": "human", "value": "<image>" * marks + "?"},
        {"from": "gpt", "value": answer},
    ]
    return json.dumps({"conversations": turns, "image": "lost/name.png"}).encode()


def test_rows_of_several_shards(tmp_path):
    write(
        tmp_path / "a-0.tar",
        {
            "x/0.jpg": png("red"),
            "x/0.json": row("zero"),
            "1.json": row("one"),
            "1.PNG": png("blue"),
        },
    )
    write(
        tmp_path / "a-1.tar",
        {"two.0.png": png("red"), "two.1.png": png("blue"), "two.json": row("two", marks=2)},
    )
    data = WebDatasetConversations(shards=str(tmp_path / "a-*.tar"))
    data = pickle.loads(pickle.dumps(data))
    assert [data[i][1].text for i in (2, 0, 1)] == ["two", "zero", "one"]
    assert data[0][0].images == (png("red"),)
    assert data[1][0].images == (png("blue"),)
    assert data[2][0].images == (png("red"), png("blue"))
    assert data.name(2).startswith("row 2 (id two) of ")


def test_captions_answer_the_question(tmp_path):
    write(tmp_path / "a.tar", {"0.jpg": png("red"), "0.txt": b"A red square.\n"})
    data = WebDatasetConversations(shards=[str(tmp_path / "a.tar")], question="Describe.")
    user, assistant = data[0]
    assert (user.text, assistant.text) == ("Describe.", "A red square.")
    assert user.images == (png("red"),)
    with pytest.raises(RowError, match="must have a json, or a txt and a question"):
        WebDatasetConversations(shards=str(tmp_path / "a.tar"))[0]


def test_faulty_shards_are_named(tmp_path):
    with pytest.raises(ValueError, match="must find at least one tar file"):
        WebDatasetConversations(shards=str(tmp_path / "*.tar"))
    (tmp_path / "no.tar").write_bytes(b"hello" * 500)
    with pytest.raises(ValueError, match=r"no.tar must be an uncompressed tar file"):
        WebDatasetConversations(shards=str(tmp_path / "no.tar"))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(__file__, "0.json")
    with pytest.raises(ValueError, match=r"packed.tar must be an uncompressed tar"):
        WebDatasetConversations(shards=str(tmp_path / "packed.tar"))
    write(tmp_path / "a.tar", {"0.json": b"[]", "1.json": b"{", "2.jpg": b""})
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"))
    for index, message in enumerate(["must be an object", "row 1 of", "must have a json"]):
        with pytest.raises(RowError, match=message):
            data[index]


@pytest.mark.parametrize("extension", ["avif", "jfif", "jp2", "ppm", "heic", "JPG"])
def test_images_of_every_extension_are_taken(tmp_path, extension):
    write(tmp_path / "a.tar", {f"0.{extension}": png("red"), "0.txt": b"Red.", "0.cls": b"5"})
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"), question="Describe.")
    assert data[0][0].images == (png("red"),)


def test_hidden_files_are_ignored(tmp_path):
    members = {"._0.jpg": b"x", "0.jpg": png("red"), "._0.txt": b"x", "0.txt": b"Red."}
    members |= {
        "__MACOSX/0.jpg": b"x",
        "d/.DS_Store": b"x",
        "d/1.jpg": png("blue"),
        "d/1.txt": b"Blue.",
    }
    write(tmp_path / "a.tar", members)
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"), question="Describe.")
    assert [data[i][1].text for i in range(len(data))] == ["Red.", "Blue."]
    assert data[0][0].images == (png("red"),)


def test_shards_of_img2dataset_answer_the_question(tmp_path):
    meta = {
        "caption": "A square.",
        "url": "https://a",
        "key": "000",
        "status": "success",
        "width": 4,
    }
    members = {"0.jpg": png("red"), "0.txt": b"A red square.", "0.json": json.dumps(meta).encode()}
    members |= {"1.jpg": png("blue"), "1.json": json.dumps(meta).encode(), "2.mp4": b"x"}
    members |= {
        "3.jpg": png("blue"),
        "3.json": json.dumps({"conversations": float("nan")}).encode(),
    }
    write(tmp_path / "a.tar", members)
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"), question="Describe.")
    assert [data[i][1].text for i in range(2)] == ["A red square.", "A square."]
    assert data[0][0].text == "Describe." and data[0][0].images == (png("red"),)
    with pytest.raises(RowError, match=r"text and images, key 2 has .'mp4'"):
        data[2]
    with pytest.raises(
        RowError, match=r"key 3 must have a json with one of conversations, .*caption"
    ):
        data[3]
    mute = WebDatasetConversations(shards=str(tmp_path / "a.tar"))
    with pytest.raises(
        RowError, match=r"key 0 must have a json with one of .* or a txt and a question"
    ):
        mute[0]


def test_a_member_with_a_huge_declared_size_is_not_read(tmp_path):
    write(tmp_path / "a.tar", {"0.jpg": png("red"), "0.txt": b"Red."})
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"), question="Describe.")
    data._size[0] = 2**40
    with pytest.raises(RowError, match=r"must have at most 536870912 bytes, got 1099511627776"):
        data[0]
