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
    with pytest.raises(ValueError, match=r"no.tar must be an unpacked tar file"):
        WebDatasetConversations(shards=str(tmp_path / "no.tar"))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(__file__, "0.json")
    with pytest.raises(ValueError, match=r"packed.tar must be an unpacked tar"):
        WebDatasetConversations(shards=str(tmp_path / "packed.tar"))
    write(tmp_path / "a.tar", {"0.json": b"[]", "1.json": b"{", "2.jpg": b""})
    data = WebDatasetConversations(shards=str(tmp_path / "a.tar"))
    for index, message in enumerate(["must be an object", "row 1 of", "must have a json"]):
        with pytest.raises(RowError, match=message):
            data[index]
