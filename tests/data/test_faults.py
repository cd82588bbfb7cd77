"""Bad rows are skipped in training, named and counted once; too many of them stop the run."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hdvl.data.faults import BadRows, TooManyBadRows
from hdvl.data.mixture import Mixture
from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.data.readers import LlavaConversations
from hdvl.processor import Processor
from tests.tiny_model import tiny_vlm


@pytest.fixture(scope="module")
def processor():
    return Processor.of(tiny_vlm(), max_length=400)


def row(number, image="a.png", answer="This."):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
    return {"id": number, "image": image, "conversations": turns}


@pytest.fixture
def read(tmp_path):
    """Twelve rows; of the numbers given the image is damaged, missing, or the answer too long."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])

    def read(bad=(3, 7), count=12, name="data.json"):
        rows = [row(number) for number in range(count)]
        faults = [row(0, "cut.png"), row(0, "none.png"), row(0, answer="long " * 400)]
        for place, number in enumerate(bad):
            rows[number] = {**faults[place % 3], "id": number}
        (tmp_path / name).write_text(json.dumps(rows))
        return LlavaConversations(path=str(tmp_path / name), image_folder=str(tmp_path))

    return read


def data(source, processor, **options):
    given = {"batch_size": 4, "num_workers": 0, "shuffle": False, "max_bad": 0.25, **options}
    return ChatData(train=source, processor=processor, **given)


def batches(module, count):
    stream = iter(module.train_dataloader())
    return [module.on_before_batch_transfer(next(stream), 0) for _ in range(count)]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 0},
        {"num_workers": 2, "workers": "threads"},
        pytest.param({"num_workers": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_bad_rows_are_left_out_and_named(read, processor, capsys, workers):
    module = data(read(bad=(3, 7, 9)), processor, **workers)
    found = batches(module, 6)
    assert [len(batch.input_ids) for batch in found] == [3, 3, 3] * 2
    assert len(module.bad) == 3
    names = list(module.bad.skipped)
    assert names[0].startswith("row 3 (id 3) of ") and "cut.png" in module.bad.skipped[names[0]]
    assert "none.png" in module.bad.skipped[names[1]]
    assert "max_length=400" in module.bad.skipped[names[2]]
    printed = capsys.readouterr().out
    assert printed.count("left out (") == 3 and "left out (2): row 7 (id 7) of" in printed


def test_over_the_budget_it_stops_with_the_list(read, processor):
    module = data(read(bad=(3, 7)), processor, max_bad=0.1)
    with pytest.raises(TooManyBadRows, match=r"max_bad=0.1 of 12 rows, which is 1, .*got 2") as e:
        batches(module, 3)
    assert "row 3 (id 3)" in str(e.value) and "row 7 (id 7)" in str(e.value)
    assert "hdvl data lint" in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(TooManyBadRows, match="which is 0"):
        batches(data(read(bad=(0,)), processor, max_bad=0.001), 1)


def test_a_wrong_folder_of_images_is_named(read, processor):
    source = read()
    source.image_folder = Path("elsewhere")
    with pytest.raises(TooManyBadRows, match=r"got 4; .*correct data\.train\.image_folder") as e:
        batches(data(source, processor), 1)
    assert "lint" not in str(e.value)


def test_a_batch_of_bad_rows_alone_changes_no_weights(read, processor):
    module = data(read(bad=(0, 1)), processor, batch_size=2)
    first = batches(module, 1)[0]
    assert first.input_ids.shape == (1, 1) and first.plans == () and len(first.pixels) == 0
    assert first.labels.tolist() == [[-100]] and len(first.left_out) == 2
    output = tiny_vlm()(
        first.input_ids,
        first.pixels,
        first.plans,
        None,
        first.labels,
    )
    assert output.loss == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*EXIF data unreadable")
def test_bad_rows_of_packs_are_left_out(read, processor):
    budget = Budget(tokens=400, tiles=40, window=12)
    module = data(read(bad=(3, 7)), processor, packing=budget)
    whole = data(read(bad=(), name="good.json"), processor, packing=budget)
    count = sum(len(batch.segments) for batch in epoch(whole))
    assert count == 12
    assert sum(len(batch.segments) for batch in epoch(module)) == 10
    assert len(module.bad) == 2


def epoch(module):
    """The packs of one epoch."""
    found, seen = [], 0
    for batch in module.train_dataloader():
        module.on_before_batch_transfer(batch, 0)
        found.append(batch)
        seen += len(batch.segments) + len(batch.left_out)
        if seen >= 12:
            return found


def test_skipped_rows_are_in_the_checkpoint(read, processor):
    module = data(read(bad=(3, 7)), processor)
    batches(module, 3)
    module.consumed = 12
    state = json.loads(json.dumps(module.state_dict()))
    after = data(read(bad=(3, 7)), processor)
    after.load_state_dict(state)
    assert after.bad.skipped == module.bad.skipped and after.consumed == 12
    assert "bad" not in data(read(bad=()), processor).state_dict()


def test_a_mixture_resumes_at_any_position_with_its_shares(read, processor):
    sources = {
        name: lambda boxes, name=name, count=count: read(bad=(), count=count, name=name)
        for name, count in {"a.json": 5, "b.json": 9}.items()
    }

    def module(**options):
        mixture = Mixture(sources=sources, weights={"a.json": 3, "b.json": 1})
        return data(mixture, processor, shuffle=True, **options)

    def ids(module, count):
        order = module.train_dataloader().batch_sampler
        return [index for _, batch in zip(range(count), order, strict=False) for index in batch]

    whole = ids(module(), 20)
    assert all(sum(i < 5 for i in whole[at : at + 4]) == 3 for at in range(0, 80, 4))
    for consumed in (4, 36):
        rest = module()
        rest.load_state_dict({"consumed": consumed, "source": rest.conversations.state_dict()})
        assert ids(rest, 5) == whole[consumed : consumed + 20]
    with pytest.raises(ValueError, match="a run must be resumed with the mixture"):
        module().conversations.load_state_dict({"shares": {"a.json": 1}})


def test_wrong_arguments_are_refused(read, processor, unchecked):
    with pytest.raises(ValueError, match=r"max_bad must be a share in 0..1, got 2"):
        BadRows(2, 10)
    with pytest.raises(ValueError, match="workers must be processes or threads, got 'fibres'"):
        with unchecked():
            data(read(), processor, workers="fibres")


def test_threads_and_processes_give_the_same_batches(read, processor):
    source = read(bad=())
    plain = batches(data(source, processor, shuffle=True), 5)
    threads = batches(data(source, processor, shuffle=True, num_workers=3, workers="threads"), 5)
    for one, other in zip(plain, threads, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.pixels, other.pixels)
