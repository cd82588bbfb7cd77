"""Rows of tables: cells keep their text, and images are read when they are needed."""

from pathlib import Path

import pytest

from hdvl.evaluation.rows import read_rows
from tests.evaluation.made_up import png, write, write_tsv


def test_cells_of_a_tsv_keep_their_text(tmp_path: Path) -> None:
    cells = {
        "index": "1",
        "question": 'a "quoted"\nline',
        "A": "None",
        "B": "NA",
        "C": "1.0",
        "D": "",
    }
    rows = list(read_rows(write_tsv(tmp_path / "a.tsv", [cells])))
    assert rows == [cells]


def test_an_image_longer_than_the_limit_of_csv_is_read(tmp_path: Path) -> None:
    large = png(0, (400, 300))
    assert len(large) > 131_072  # the default limit of a cell
    path = write_tsv(
        tmp_path / "a.tsv",
        [
            {"index": "0", "question": "q", "image": large},
            {"index": "1000000", "question": "q", "image": "0"},  # the image of row 0
            {"index": "2", "question": "q", "image": png(1)},
        ],
    )
    first, rotated, other = (row["image"][0] for row in read_rows(path))
    assert first.read() == rotated.read() == large
    assert other.read() == png(1)
    assert first.content == rotated.content != other.content
    assert rotated.name == "a.tsv:1000000"


def test_a_cell_with_several_images(tmp_path: Path) -> None:
    import base64

    cell = str([base64.b64encode(png(seed)).decode() for seed in (3, 4)])
    path = write_tsv(tmp_path / "a.tsv", [{"index": "5", "question": "q", "image": cell}])
    images = next(iter(read_rows(path)))["image"]
    assert [image.read() for image in images] == [png(3), png(4)]
    assert [image.name for image in images] == ["a.tsv:5:0", "a.tsv:5:1"]


def test_images_of_parquet_files(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": png(0), "path": "a.png"}, None, {"bytes": png(1), "path": None}]
    table = pa.table({"id": ["a", "b", "c"], "image": images})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["image"].read() == png(0) and rows[2]["image"].read() == png(1)
    assert rows[1]["image"] is None


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end with one of \.json, .*got '\.txt'"):
        read_rows(tmp_path / "a.txt")
    torn = write(tmp_path / "torn.tsv", 'index\tquestion\n1\t"no end\n')
    with pytest.raises(ValueError, match=r"torn\.tsv ends inside of a quoted cell"):
        list(read_rows(torn))
    short = write(tmp_path / "short.tsv", "index\tquestion\n1\n")
    with pytest.raises(ValueError, match=r"line 2 of .*must have 2 cells .*got 1"):
        list(read_rows(short))
    broken = write(tmp_path / "broken.jsonl", '{"a": 1}\n{"a"\n')
    with pytest.raises(ValueError, match=r"line 2 of .*must be JSON"):
        list(read_rows(broken))
    bad = write_tsv(tmp_path / "bad.tsv", [{"index": "7", "question": "q", "image": "%" * 80}])
    with pytest.raises(ValueError, match=r"image bad\.tsv:7 must be base64"):
        next(iter(read_rows(bad)))["image"][0].read()
