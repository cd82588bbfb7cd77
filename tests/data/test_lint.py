"""Faults of every kind are found, reported, and skipped with the quarantine file."""

import json

import numpy as np
import pytest
from PIL import Image

from hdvl.data.lint import FAULTS, Composite, lint, row_sources
from hdvl.data.mixture import Mixture
from hdvl.data.quarantine import write_json
from hdvl.data.readers import InternVLConversations, LlavaConversations
from hdvl.processor import Processor
from hdvl.protocols import Message
from tests.tiny_model import tiny_vlm

BOX = "<ref>a</ref><box>(10,10),(50,50)</box>"


@pytest.fixture(scope="module")
def processor():
    return Processor.of(tiny_vlm(), max_length=400)


def turns(question="<image>\nWhat?", answer="This."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def rows():
    """One row of each fault among good ones; the order is that of ``FAULTS``."""
    return {
        "good": {"image": "a.png", "conversations": turns()},
        "row": {"image": "a.png", "conversations": [{"from": "human"}]},
        "placeholder": {"image": ["a.png", "b.png"], "conversations": turns()},
        "image": {"image": "cut.png", "conversations": turns()},
        "box": {"image": "a.png", "conversations": turns(answer=BOX.replace("50", "5000"))},
        "conversation": {"conversations": turns("<|im_end|>")},
        "unsupervised": {"image": "a.png", "conversations": turns()[:1]},
        "long": {"image": "a.png", "conversations": turns(answer="long " * 400)},
        "duplicate": {"image": "copy.png", "conversations": turns()},
        "good too": {"image": "a.png", "conversations": turns(answer=BOX)},
    }


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "copy.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png")
    lines = [json.dumps({"id": name} | row) for name, row in rows().items()]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return tmp_path


def read(folder, **options):
    return LlavaConversations(path=str(folder / "data.jsonl"), image_folder=str(folder), **options)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_fault_is_found_in_its_row(folder, processor, num_workers):
    report = lint([read(folder)], processor, num_workers=num_workers)
    found = {finding.name.split("id ")[1].split(")")[0]: finding for finding in report.findings}
    assert {name: [fault for fault, _ in f.faults] for name, f in found.items()} == {
        fault: [fault] for fault in FAULTS
    }
    assert report.counts() == dict.fromkeys(FAULTS, 1)
    assert found["duplicate"].faults[0][1].startswith("the same as row 0 (id good) of")
    assert "cut.png" in found["image"].faults[0][1]
    assert "5000" in found["box"].faults[0][1]
    plain = json.loads(json.dumps(report.as_json()))
    assert plain["rows"] == {str(folder / "data.jsonl"): 10} and len(plain["findings"]) == 8


def test_the_quarantine_leaves_them_out(folder, processor):
    report = lint([read(folder)], processor)
    path = folder / "quarantine.json"
    write_json(path, report.quarantine(FAULTS))
    data = read(folder, quarantine=str(path))
    assert len(data) == 2
    assert [data.name(i).split("id ")[1].split(")")[0] for i in range(2)] == ["good", "good too"]
    assert all(processor(data[i]).labels.max() > 0 for i in range(2))
    write_json(path, report.quarantine({"duplicate", "box"}))
    assert len(read(folder, quarantine=str(path))) == 8
    assert len(report.bad({"duplicate", "box"})) == 2


def test_a_quarantine_of_other_data_is_refused(folder, processor):
    path = folder / "quarantine.json"
    write_json(path, lint([read(folder)], processor).quarantine(FAULTS))
    lines = (folder / "data.jsonl").read_text().splitlines()
    (folder / "data.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"was made for 10 rows of .*, which has 9"):
        read(folder, quarantine=str(path))
    (folder / "data.jsonl").write_text("\n".join([lines[0], *lines[:-1]]))
    with pytest.raises(ValueError, match=r"leaves out row 1 .id row.*, which is another row now"):
        read(folder, quarantine=str(path))
    (folder / "other.jsonl").write_text(lines[0])
    with pytest.raises(ValueError, match=r"must have the source '.*other.jsonl', it has"):
        LlavaConversations(path=str(folder / "other.jsonl"), quarantine=str(path))
    path.write_text("{}")
    with pytest.raises(ValueError, match="must be of version 1"):
        read(folder, quarantine=str(path))


def test_a_line_that_is_no_json_is_left_out_too(folder, processor):
    text = (folder / "data.jsonl").read_text() + "\n{oops"
    (folder / "data.jsonl").write_text(text)
    report = lint([read(folder)], processor)
    assert report.findings[-1].faults[0][0] == "row"
    path = folder / "quarantine.json"
    write_json(path, report.quarantine(FAULTS))
    assert len(read(folder, quarantine=str(path))) == 2


def test_sources_of_mixtures_and_meta_files_are_looked_at_once(folder, processor):
    meta = {"m": {"root": ".", "annotation": "data.jsonl", "repeat_time": 3}}
    (folder / "meta.json").write_text(json.dumps(meta))
    paths = {"path": str(folder / "meta.json"), "folder": str(folder)}

    def mixture(quarantine=None):
        def one(boxes):
            return InternVLConversations(**paths, boxes=boxes, quarantine=quarantine)

        return Mixture(sources={"one": one}, weights={"one": 1})

    assert isinstance(mixture(), Composite)
    sources = row_sources(mixture())
    report = lint(sources * 2, processor)
    assert report.rows == {str(folder / "data.jsonl"): 10} and len(report.findings) == 8
    path = str(folder / "quarantine.json")
    write_json(folder / "quarantine.json", report.quarantine(FAULTS))
    assert len(mixture(path)) == 6
    with pytest.raises(ValueError, match="leaves some out; set quarantine=null"):
        row_sources(mixture(path))


def test_data_without_rows_are_named():
    class Made:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return [Message("user", "a")]

    with pytest.raises(ValueError, match="must be rows of files, Made generates its own"):
        row_sources(Made())
