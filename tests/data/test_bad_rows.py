"""Rows that cannot be trained on are skipped by training, plan and lint alike, whatever the fault."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hdvl.data.lint import lint
from hdvl.data.mixture import Mixture
from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.data.quarantine import write_json
from hdvl.data.readers import LlavaConversations, ParquetConversations
from hdvl.data.rows import RowError, to_messages
from hdvl.data.survey import survey
from hdvl.messages import is_given
from hdvl.processor import Processor
from hdvl.templates import Absolute, Norm1000
from tests.tiny_model import tiny_vlm


@pytest.fixture(scope="module")
def processor():
    return Processor.of(tiny_vlm(), max_length=400)


def turns(question="<image>\nWhat?", answer="This."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def row(image="a.png", **options):
    return {"image": image, "conversations": turns(**options)}


def box(corners):
    return row(answer=f"<box>{corners}</box>")


BAD = {
    "half a surrogate pair": row(answer="\ud800"),
    "half a pair in the question": row(question="<image> \udfff?"),
    "half a pair in a message": {"messages": [{"role": "user", "content": "\ud800"}]},
    "half a pair in a path": row("\ud800.png"),
    "number": row(5),
    "truth": row(True),
    "list of lists": row([["a.png"]]),
    "bytes of a number": row({"bytes": 5}),
    "path of a number": row({"path": 5}),
    "nothing in both": row({"bytes": None, "path": None}),
    "empty mapping": row({}),
    "name too long": row("x" * 5000),
    "null character": row("a\0.png"),
    "loop of links": row("loop.png"),
    "folder": row("."),
    "named pipe": row("pipe"),
    "device": row("/dev/zero"),
    "link to a device": row("zero.png"),
    "missing": row("none.png"),
    "no image": row("text.png"),
    "URL": row("https://example.com/a.png"),
    "NaN where a mark is": row(math.nan),
    "sparse file": row("sparse.png"),
    "too narrow": row("narrow.png"),
    "box of NaN": box("(NaN,0),(10,10)"),
    "box of infinity": box("(0,0),(inf,10)"),
    "negative box": box("(-5,0),(10,10)"),
    "box outside": box("(0,0),(10,1300)"),
    "reversed box": box("(500,500),(10,10)"),
    "no mapping": [row()],
    "number for a row": 5,
    "turn of a number": {"conversations": [5]},
    "role of a list": {"conversations": [{"from": ["human"], "value": "a"}]},
    "text of a number": row(answer=5),
    "text of NaN": row(answer=math.nan),
    "turns of a number": {"conversations": 5},
    "turns of NaN": {"conversations": math.nan},
    "part without a type": {"messages": [{"role": "user", "content": [{}]}]},
    "part of a number": {"messages": [{"role": "user", "content": [5]}]},
    "content of a number": {"messages": [{"role": "user", "content": 5}]},
    "texts of strings": {"texts": ["ab"]},
    "deep image": row({"bytes": {"bytes": {"bytes": None}}}),
}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("1", (1, 40_000)).save(tmp_path / "narrow.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    return tmp_path


def write(folder, rows, name="data.jsonl"):
    """Rows as lines, or in one array. ``rows`` are values, or the bytes of a line."""
    lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in rows]
    text = b"\n".join(lines) if name.endswith("l") else b"[" + b",\n".join(lines) + b"]"
    (folder / name).write_bytes(text)
    return LlavaConversations(path=str(folder / name), image_folder=str(folder))


def left_out_everywhere(folder, source, processor):
    """The (number, reason) of the rows that training leaves out, after checking the plan and lint."""
    tiler = replace(processor.tiler, max_pixels=1_000_000)
    processor = replace(processor, tiler=tiler)
    data = ChatData(
        train=source, processor=processor, batch_size=5, num_workers=0, shuffle=False, max_bad=1
    )
    stream, seen = iter(data.train_dataloader()), 0
    while seen < len(source):
        batch = data.on_before_batch_transfer(next(stream), 0)
        seen += len(batch.rows) + len(batch.left_out)
    trained = data.bad.skipped
    planned = survey(source, processor, most=None)
    assert dict(planned.faulty).keys() == trained.keys()
    report = lint([source], processor)
    assert {finding.name for finding in report.findings} == trained.keys()
    json.dumps(report.as_json(), ensure_ascii=False).encode()
    path = folder / "quarantine.json"
    write_json(path, report.quarantine(["row", "image", "box", "placeholder"]))
    kept = LlavaConversations(path=source.label, image_folder=str(folder), quarantine=str(path))
    assert len(kept) == len(source) - len(trained)
    return trained


@pytest.mark.slow
def test_every_bad_line_is_left_out_and_named(folder, processor):
    rows = [row() | {"id": "good"}]
    for name, bad in BAD.items():
        rows += [bad | {"id": name} if isinstance(bad, dict) else bad, row(answer=name)]
    rows += [
        b"{" * 3,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b"[" * 200_000,
        row(answer="Last."),
        b"{}{}",
    ]
    rows += [b'{"image": ' + b'{"bytes": ' * 300 + b"5" + b"}" * 300 + b', "conversations": [5]}']
    trained = left_out_everywhere(folder, write(folder, rows), processor)
    assert len(trained) == len(BAD) + 6
    for name in BAD:
        if isinstance(BAD[name], dict):
            assert any(f"(id {name})" in found for found in trained), name
    reasons = "\n".join(trained.values())
    for part in (
        "is half of a surrogate pair",
        "image must be a path, bytes or {bytes, path}, got 5",
        "it is a named pipe",
        "it is a device",
        "Too many levels of symbolic links",
        "File name too long",
        "its corners in the wrong order",
        "is no box inside its image",
        "is nested too deeply",
        "must be UTF-8, byte",
    ):
        assert part in reasons, part


@pytest.mark.slow
def test_bad_elements_of_an_array_are_left_out_too(folder, processor):
    rows = [row(answer="First."), b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, BAD["number"]]
    escaped = json.dumps({"text": '\\"[' * 10}).encode()
    rows += [escaped[:-1] + b', "deep": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", row()]
    trained = left_out_everywhere(folder, write(folder, rows, "data.json"), processor)
    assert [name.split(" of ")[0] for name in trained] == ["row 1", "row 2", "row 3", "row 4"]
    assert "row 1 is nested too deeply to be read" in trained[next(iter(trained))]


def test_bad_rows_of_packs_are_left_out(folder, processor):
    rows = [row(answer=f"Answer {number}.") for number in range(3)]
    source = write(folder, [*rows, BAD["number"], BAD["box of NaN"], b"[" * 100_000])
    budget = Budget(tokens=400, tiles=40, window=6)
    data = ChatData(
        train=source, processor=processor, num_workers=0, packing=budget, max_bad=1, shuffle=False
    )
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch.rows) == [0, 1, 2]
    assert sorted(name.split(" ")[1] for name, _ in batch.left_out) == ["3", "4", "5"]


def test_nan_is_no_image(folder):
    assert not is_given(math.nan) and not is_given(None) and is_given(0) and is_given("")
    source = write(folder, [{"image": math.nan, "video": math.nan, "conversations": turns("Hi?")}])
    assert [message.images for message in source[0]] == [(), ()]
    several = {"image": ["a.png", None, math.nan], "messages": None, "conversations": turns()}
    assert to_messages(several)[0].images == ("a.png",)


def test_a_box_of_a_declared_codec_is_checked_and_others_are_text(folder):
    def read(answer, **options):
        (folder / "b.jsonl").write_text(json.dumps(row(answer=answer)))
        path = str(folder / "b.jsonl")
        return LlavaConversations(path=path, image_folder=str(folder), **options)[0][1].text

    written = {"written": Absolute(), "boxes": Norm1000()}
    assert read("cat [4, 3, 20, 15]", **written) == "cat <box>(100,100),(500,500)</box>"
    for corners in ("NaN, 0, 1, 1", "0, 0, inf, 1", "-1, 0, 2, 2", "0, 0, 42, 30", "9, 9, 1, 1"):
        with pytest.raises(
            RowError, match=rf"row 0 of .*b.jsonl: box .*\[{corners}\].*, of assistant"
        ):
            read(f"cat [{corners}]", **written)
    assert read("[2019, 2020, 2021, 2022]", boxes=Norm1000()) == "[2019, 2020, 2021, 2022]"


def test_two_sources_over_one_file_are_both_checked(folder, processor):
    (folder / "other").mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "other" / "a.png")
    rows = [row("b.png", answer=str(number)) for number in range(2)]
    source = write(folder, [row(), *rows])
    Image.new("RGB", (40, 30), "blue").save(folder / "b.png")
    path, quarantine = source.label, str(folder / "q.json")

    def mixture(quarantine=None):
        def read(name):
            images = str(folder / name)
            return lambda boxes: LlavaConversations(
                path=path, image_folder=images, boxes=boxes, quarantine=quarantine
            )

        return Mixture(sources={"x": read(""), "y": read("other")}, weights={"x": 1, "y": 1})

    both = mixture()
    report = lint(list(both.sources.values()), processor)
    other = f"{path} with image_folder={folder / 'other'}"
    assert report.rows == {f"{path} with image_folder={folder}": 3, other: 3}
    assert [finding.name for finding in report.findings] == [f"row {n} of {other}" for n in (1, 2)]
    write_json(folder / "q.json", report.quarantine(["image"]))
    assert [len(source) for source in mixture(quarantine).sources.values()] == [3, 1]
    with pytest.raises(ValueError, match=r"was made for .* with .*other.*got .*elsewhere"):
        LlavaConversations(path=path, image_folder="elsewhere", quarantine=quarantine)
    data = ChatData(train=both, processor=processor, batch_size=6, num_workers=0, max_bad=1)
    data.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert sorted(data.bad.skipped) == [f"row {n} of {other}" for n in (1, 2)]


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 1}], ids=str)
def test_a_sample_over_the_budget_of_packs_is_reported_before_loading(folder, processor, options):
    source = write(folder, [row(answer="long " * 50)])
    budget = Budget(tokens=20, tiles=40, window=6)
    data = ChatData(train=source, processor=processor, packing=budget, **options)
    with pytest.raises(ValueError, match=r"must fit the budget of 20 tokens .* sample 0 has \d+"):
        data.train_dataloader()


def test_bad_rows_of_parquet_files_are_left_out(folder, processor):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    good = (folder / "a.png").read_bytes()
    table = arrow.table(
        {
            "image": [{"bytes": image} for image in (good, b"no image", None, good)],
            "conversations": [json.dumps(turns()), json.dumps(turns()), "[5]", "[" * 100_000],
        }
    )
    parquet.write_table(table, folder / "a.parquet")
    source = ParquetConversations(path=str(folder / "a.parquet"), cache_dir=str(folder / "cache"))
    planned = survey(source, processor, most=None)
    assert sorted(name.split(" ")[1] for name, _ in planned.faulty) == ["1", "2", "3"]
    report = lint([source], processor)
    assert [finding.row for finding in report.findings] == [1, 2, 3]
    assert len(report.quarantine(["row", "image"])["sources"][source.label]["left_out"]) == 3
