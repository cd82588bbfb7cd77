"""MDS shards of mosaicml-streaming if it is installed, otherwise a clear error."""

import importlib.util
import io
import json

import pytest
from PIL import Image

from hdvl.data.readers import StreamingConversations
from hdvl.images import read_image

ABSENT = importlib.util.find_spec("streaming") is None


@pytest.mark.skipif(not ABSENT, reason="mosaicml-streaming is installed")
def test_its_absence_is_named(tmp_path):
    with pytest.raises(ImportError, match=r"MDS shards need mosaicml-streaming.*pip install"):
        StreamingConversations(local=str(tmp_path))


@pytest.mark.skipif(ABSENT, reason="mosaicml-streaming is not installed")
@pytest.mark.filterwarnings("ignore")
def test_rows_at_random(tmp_path):
    from streaming import MDSWriter

    columns = {"id": "int", "conversations": "json", "image": "bytes"}
    with MDSWriter(out=str(tmp_path / "s"), columns=columns, size_limit=400) as out:
        for number in range(9):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
            turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": str(number)}]
            out.write({"id": number, "conversations": turns, "image": buffer.getvalue()})
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert len(index["shards"]) > 1
    data = StreamingConversations(local=str(tmp_path / "s"))
    assert len(data) == 9
    for number in (8, 0, 4, 3):
        user, assistant = data[number]
        assert assistant.text == str(number)
        assert read_image(user.images[0]).getpixel((0, 0)) == (number, 0, 0)
    assert data.name(4) == f"row 4 (id 4) of {tmp_path / 's'}"
