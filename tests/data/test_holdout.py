"""Rows held out for validation: no row and no image is in both sets, and the split is reproducible."""

import json
from pathlib import Path

import pytest

from hdvl.config import compose, to_plain
from hdvl.data.build import build_conversations, validation_node
from hdvl.data.conversations import name_of
from hdvl.data.holdout import hold_out
from hdvl.data.mixture import Mixture
from hdvl.data.readers import InternVLConversations, LlavaConversations
from hdvl.data.sources import leaves
from hdvl.protocols import Message


def row(number, *images, **fields):
    marks = "<image>\n" * len(images)
    turns = [{"from": "human", "value": f"{marks}{number}?"}, {"from": "gpt", "value": str(number)}]
    return {"id": number, "image": list(images), "conversations": turns, **fields}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return str(path)


def ids(conversations):
    return [int(conversations[index][1].text) for index in range(len(conversations))]


@pytest.fixture
def forty(tmp_path):
    """Forty rows about twenty images, two each."""
    return [row(number, f"{number // 2:02}.png") for number in range(40)]


def test_rows_of_an_image_stay_together_and_nothing_is_lost(tmp_path, forty):
    path = write(tmp_path / "a.jsonl", forty)
    train, held = hold_out(LlavaConversations(path=path), 0.1)
    assert len(held) == 4 and sorted(ids(train) + ids(held)) == list(range(40))
    assert not {number // 2 for number in ids(train)} & {number // 2 for number in ids(held)}
    first = ids(held)[0]
    assert name_of(held, 0) == f"row {first} (id {first}) of {path}"


def test_the_split_follows_from_the_rows_and_not_from_their_order_or_folder(tmp_path, forty):
    _, held = hold_out(LlavaConversations(path=write(tmp_path / "a.jsonl", forty)), 0.2)
    turned = LlavaConversations(
        path=write(tmp_path / "b.jsonl", forty[::-1]), image_folder="elsewhere"
    )
    assert sorted(ids(hold_out(turned, 0.2)[1])) == sorted(ids(held))


def test_rows_that_a_third_one_connects_stay_together(tmp_path):
    linked = [row(0, "a.png"), row(1, "b.png"), row(2, "a.png", "b.png"), row(3, "c.png")]
    for share in (0.25, 0.5):
        train, held = hold_out(LlavaConversations(path=write(tmp_path / "a.jsonl", linked)), share)
        assert (ids(train), ids(held)) == ([0, 1, 2], [3])
    documents = [row(n, f"{n}.png", document=f"d{n % 2}") for n in range(6)]
    reader = LlavaConversations(path=write(tmp_path / "b.jsonl", documents))
    train, held = hold_out(reader, 0.5, by="document")
    assert {n % 2 for n in ids(train)} != {n % 2 for n in ids(held)} and len(held) == 3
    with pytest.raises(ValueError, match="holdout_by=page must be a field of every row, row 0"):
        hold_out(reader, 0.5, by="page")


def test_equal_rows_and_rows_that_cannot_be_read_are_split_too(tmp_path):
    same = {"conversations": [{"from": "human", "value": "1?"}, {"from": "gpt", "value": "1"}]}
    path = write(tmp_path / "a.jsonl", [same, same, {"odd": 1}, row(3)])
    train, held = hold_out(LlavaConversations(path=path), 0.5)
    assert len(train) + len(held) == 4
    places = [held.name(index)[:5] for index in range(len(held))]
    assert ("row 0" in places) == ("row 1" in places)


@pytest.mark.parametrize(
    ("rows", "share", "message"),
    [
        (3, 0, "must be a number above 0 and below 1"),
        (3, 1.0, "must be a number above 0 and below 1"),
        (3, 0.5, "that all share an image"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path, rows, share, message):
    path = write(tmp_path / "a.jsonl", [row(number, "one.png") for number in range(rows)])
    with pytest.raises(ValueError, match=message):
        hold_out(LlavaConversations(path=path), share)


def test_mixtures_and_meta_files_keep_their_shares_without_the_rows_held_out(tmp_path, forty):
    paths = {n: write(tmp_path / f"{n}.jsonl", forty) for n in "ab"}
    sources = {
        n: lambda boxes, path=path: LlavaConversations(path=path, boxes=boxes)
        for n, path in paths.items()
    }
    mixture = Mixture(sources=sources, weights={"a": 3, "b": 1})
    train, held = hold_out(mixture, 0.1)
    assert isinstance(train, Mixture) and len(train) == 72 and len(held) == 8
    assert not {n // 2 for n in ids(train)} & {n // 2 for n in ids(held)}
    assert [train.order(0)(position) < len(train.sources["a"]) for position in range(4)].count(
        True
    ) == 3
    meta = {n: {"root": ".", "annotation": f"{n}.jsonl", "repeat_time": 2} for n in "ab"}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    both = InternVLConversations(path=str(tmp_path / "meta.json"), folder=str(tmp_path))
    train, held = hold_out(both, 0.1)
    assert len(train) == 2 * 72 and len(held) == 8 and len(leaves(train)) == 2


def test_synthetic_conversations_are_split_by_number(tmp_path):
    class Numbers:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return [Message("user", "?"), Message("assistant", str(index))]

    train, held = hold_out(Numbers(), 0.25)
    assert len(held) == 5 and sorted(ids(train) + ids(held)) == list(range(20))


def test_the_config_gives_validation_by_path_or_by_share(tmp_path, forty):
    path, own = write(tmp_path / "a.jsonl", forty), write(tmp_path / "b.jsonl", forty[:3])
    folder = tmp_path / "pictures"
    folder.mkdir()
    words = ["data=llava", f"data.train.path={path}", f"data.train.image_folder={folder}"]

    def built(*more):
        config = to_plain(compose(*words, *more).data)
        return config, build_conversations(config, boxes=None)

    config, (train, held) = built()
    assert validation_node(config) is None and held is None and len(train) == 40
    _, (train, held) = built(f"data.validation.path={own}")
    assert (len(train), len(held)) == (40, 3)
    assert held[0][0].images == (folder / "00.png",)
    _, (train, held) = built("data.holdout=0.1")
    assert (len(train), len(held)) == (36, 4)
    with pytest.raises(ValueError, match="must not both be given"):
        built("data.holdout=0.1", f"data.validation.path={own}")


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("reader", "key"),
    [
        *((name, "path") for name in ("llava", "datasets", "parquet", "internvl", "qwen_vl")),
        ("webdataset", "shards"),
        ("streaming", "local"),
    ],
)
def test_every_reader_takes_validation_by_one_word(reader, key):
    data = compose(f"data={reader}", f"data.train.{key}=rows", f"data.validation.{key}=others").data
    node = validation_node(to_plain(data))
    assert node is not None and node[key] == "others"
    train = to_plain(data.train)
    assert {name: node[name] for name in node if name not in (key, "quarantine")} == {
        name: train[name] for name in node if name not in (key, "quarantine")
    }
