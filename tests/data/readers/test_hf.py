"""Data sets saved by ``datasets``, and parquet files: images as bytes, rows at random."""

import io
import pickle

import pytest
from PIL import Image

from hdvl.data.readers import DatasetsConversations, ParquetConversations
from hdvl.images import read_image

datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


COLOURS = ["red", "green", "blue"]


@pytest.fixture
def data():
    rows = {
        "id": [f"r{i}" for i in range(3)],
        "images": [[{"bytes": jpeg(colour), "path": None}] for colour in COLOURS],
        "texts": [[{"user": "Colour?", "assistant": colour}] for colour in COLOURS],
    }
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List(
                {"user": datasets.Value("string"), "assistant": datasets.Value("string")}
            ),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def check(read):
    assert len(read) == 3
    for index, colour in reversed(list(enumerate(COLOURS))):
        user, assistant = read[index]
        assert (user.text, assistant.text) == ("Colour?", colour)
        assert isinstance(user.images[0], bytes)
        expected = Image.new("RGB", (8, 6), colour)
        assert read_image(user.images[0]).tobytes() == expected.tobytes()
    assert pickle.loads(pickle.dumps(read))[1][1].text == "green"


def test_saved_folders(data, tmp_path):
    data.save_to_disk(str(tmp_path / "plain"))
    check(DatasetsConversations(path=str(tmp_path / "plain")))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    read = DatasetsConversations(path=str(tmp_path / "splits"), split="train")
    check(read)
    assert read.name(1) == f"row 1 (id r1) of {tmp_path / 'splits'}:train"


def test_parquet_files(data, tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    data.select([0, 1]).to_parquet(str(folder / "a-0.parquet"))
    data.select([2]).to_parquet(str(folder / "a-1.parquet"))
    cache = str(tmp_path / "cache")
    for path in (folder, folder / "a-*.parquet"):
        check(ParquetConversations(path=str(path), cache_dir=cache))


def test_wrong_paths_are_named(data, tmp_path):
    with pytest.raises(ValueError, match="must be a folder written by save_to_disk"):
        DatasetsConversations(path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="must be a parquet file, a folder or a pattern"):
        ParquetConversations(path=str(tmp_path / "*.parquet"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match=r"split of .* must be one of \['train'\], got None"):
        DatasetsConversations(path=str(tmp_path / "splits"))
    data.save_to_disk(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="has no splits, got split='train'"):
        DatasetsConversations(path=str(tmp_path / "plain"), split="train")
