"""The tool that trains on all documents at once: its batches, its losses, its learning rates."""

import multiprocessing
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import train_wide
from shared_attention import positions_of, rows_of, use_shared_attention
from train_wide import (
    Heads,
    Wide,
    answer_losses,
    batches,
    groups,
    insert_layers,
    use_reader,
)

from hdvl.checkpoints import load_folder, read_config, save_folder
from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import Document, SyntheticDocuments
from hdvl.data.synthetic.questions import refusal
from hdvl.inference.load import load
from hdvl.model import VLM
from hdvl.training.step_loss import batch_loss

SHARES: dict[str, Any] = {"own": 1.0, "few": 1.0, "pages": 0.0, "budget": 1}


@pytest.fixture
def vlm() -> VLM:
    return load(ASSETS / "small").model


def form() -> Document:
    return SyntheticDocuments(seed=5, kinds="form", width=(320, 320), height=(256, 256))[2]


def small_pages(vlm: VLM) -> Wide:
    """Batches of one form."""
    data = Wide(vlm, 1, **SHARES)
    data.document = lambda rng, whole: form()  # type: ignore[method-assign]
    return data


def test_answers_are_values_boxes_and_refusals(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_wide, "ABSENT", 1.0)
    batch, spelled, named, following = small_pages(vlm)[0]
    letters = vlm.llm.tokenizer.decode(batch.input_ids[0, spelled.queries]).lower()
    assert form().fields[0].name.split()[0].lower() in letters.replace(" ", "")
    for found in (named, following):
        assert len(found.queries) == len(found.images) == len(found.found) > 0
        kept = found.found[found.found >= 0]
        assert bool((batch.input_ids[0, kept] == vlm.image_token_id).all())
        assert bool((batch.labels[0, found.queries + 1] >= 0).all())
    text = vlm.llm.tokenizer.decode(batch.labels[0][batch.labels[0] >= 0])
    assert all(field.value in text for field in form().fields)
    assert "<loc_" in text and refusal(form().language) in text


def test_pointers_have_the_coordinates_of_the_boxes_that_are_answers(vlm: VLM) -> None:
    with train_wide.placed_documents():
        batch, *_, following = small_pages(vlm)[0]
        first = vlm.llm.tokenizer.convert_tokens_to_ids("<loc_0>")
        told = batch.labels[0, following.queries + 1] - first
        located = (told >= 0) & (told < 1000)
    assert bool(located.any())
    # The pointers before the first and the third location stand for the corners of the box.
    assert bool((following.boxes[located] - told[located, None]).abs().min(1).values.max() <= 1)


def test_documents_have_their_places_also_in_the_process_that_draws_them(vlm: VLM) -> None:
    method, data = multiprocessing.get_start_method(), small_pages(vlm)
    without, *_ = data[0]
    multiprocessing.set_start_method("spawn", force=True)  # as in one of several processes
    try:
        with train_wide.placed_documents():
            here, *_ = data[0]
            drawn, *_ = next(iter(batches(data, [0])))
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert torch.equal(drawn.labels, here.labels)
    assert not torch.equal(drawn.labels, without.labels)


def test_processes_have_whole_pages_in_the_same_steps(vlm: VLM) -> None:
    asked = list[list[bool]]()
    for seed in (1, 1001):
        data, kinds = Wide(vlm, seed, **SHARES | {"pages": 0.5}), list[bool]()
        data.document = lambda rng, whole, kinds=kinds: kinds.append(whole) or form()  # type: ignore
        for index in range(8):
            data[index]
        asked.append(kinds)
    assert asked[0] == asked[1] and {True, False} == set(asked[0])


def test_a_picture_is_asked_for_what_it_does_not_show(vlm: VLM) -> None:
    picture = SyntheticDocuments(seed=1, kinds="picture", width=(224, 224), height=(224, 224))[0]
    asked = Wide(vlm, 1, **SHARES).ask(picture, random.Random(1))
    assert {turns[1].text for turns, _ in asked} == {refusal(picture.language)}


def test_the_share_of_the_older_kinds_is_the_one_asked_for(vlm: VLM) -> None:
    rng, kinds = random.Random(3), list[str]()
    for own in (1.0, 0.0):
        data = Wide(vlm, 1, **SHARES | {"own": own})
        drawn = (data.document(rng, whole=False) for _ in range(10))
        kinds.append(str({document.kind in train_wide.OWN for document in islice(drawn, 10)}))
    assert kinds == ["{True}", "{False}"]


def test_the_loss_is_that_of_the_training_loop(vlm: VLM) -> None:
    batch, *_ = small_pages(vlm)[0]
    with torch.no_grad():
        summed, count = batch_loss(vlm, batch, first_token_weight=train_wide.FIRST)
        use_shared_attention(vlm.llm.model)
        losses, weights = answer_losses(vlm, batch)
    torch.testing.assert_close(weights.sum(), count)
    torch.testing.assert_close((losses * weights).sum(), summed, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_inserted_layers_change_nothing_at_first(vlm: VLM, shared: bool, tmp_path: Path) -> None:
    config, rows = read_config(ASSETS / "small"), torch.randn(1, 9, vlm.llm.width)
    segments = ((4, 2, 3),)
    options = {"position_ids": positions_of(segments)[None], "rows": rows_of(segments)}
    inner = vlm.llm.model.model
    found = list[torch.Tensor]()
    for after in ([], [1, 3]):
        insert_layers(vlm, config, after)
        if shared:  # also in the added layers
            use_shared_attention(vlm.llm.model)
        with torch.no_grad():
            states = inner(inputs_embeds=rows, use_cache=False, **(options if shared else {}))
        found.append(states.last_hidden_state)
    torch.testing.assert_close(*found)
    assert [layer.self_attn.layer_idx for layer in inner.layers] == list(range(10))
    saved = save_folder(vlm, tmp_path / "deeper", config)
    assert len(load_folder(saved).llm.model.model.layers) == 10


def test_a_reader_brings_its_encoder_and_its_bridge(vlm: VLM, tmp_path: Path) -> None:
    config = read_config(ASSETS / "small")
    other = load(ASSETS / "small").model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    use_reader(vlm, config, save_folder(other, tmp_path / "reader", config))
    for name, parameter in vlm.named_parameters():
        same = torch.equal(parameter, other.get_parameter(name))
        assert same == name.startswith(("encoder.", "bridge."))


def test_heads_have_no_loss_without_pointers(vlm: VLM) -> None:
    heads, (_, *all_wanted) = Heads(vlm), small_pages(vlm)[0]
    states, table = [torch.randn(4000, vlm.llm.width)] * 3, torch.randn(1000, vlm.llm.width)
    losses, figures = heads(states, table, *all_wanted)
    assert set(losses) == {"spelled", "named", "next", "box"} and "boxes right" in figures
    for wanted in all_wanted:
        wanted.queries = wanted.queries[:0]
    assert heads(states, table, *all_wanted) == ({}, {})


def test_all_but_the_encoder_learns_and_upper_layers_faster(vlm: VLM) -> None:
    heads = torch.nn.Linear(2, 2)
    found = groups(vlm, heads, 1.0, 0.5)
    learning = {id(p) for group in found for p in group["params"]}
    left = {name.split(".")[0] for name, p in vlm.named_parameters() if id(p) not in learning}
    assert left == {"encoder"} and {id(p) for p in heads.parameters()} <= learning
    layers = [group["lr"] for group in found[2 : 2 + len(vlm.llm.model.model.layers)]]
    assert layers == sorted(layers) and layers[0] < layers[-1] == 1.0


def test_a_font_that_is_not_installed_is_named(tmp_path: Path) -> None:
    from hdvl.data.synthetic import fonts

    with pytest.raises(ModuleNotFoundError, match="need the font package 'font_nowhere'"):
        fonts._locate("font_nowhere", "a.ttf")


@pytest.mark.slow
def test_a_training_leaves_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "wide"
    words = f"--init-from {ASSETS / 'small'} --out {out} --steps 2 --batch 1 --threads 1".split()
    monkeypatch.setattr("sys.argv", ["train_wide.py", *words, "--insert", "1"])
    train_wide.main()
    assert len(load_folder(out).llm.model.model.layers) == 9
    before, after = (load_folder(folder).state_dict() for folder in (ASSETS / "small", out))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"bridge", "merger", "llm"}
    heads = f"--init-from {out} --out {tmp_path / 'on'} --heads {out}.checkpoint.pt --steps 1"
    monkeypatch.setattr("sys.argv", ["train_wide.py", *heads.split(), "--batch", "1"])
    train_wide.main()
    assert load_folder(tmp_path / "on").llm.width == 192


@pytest.mark.slow
def test_two_processes_leave_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "wide"
    words = f"--init-from {ASSETS / 'small'} --out {out} --steps 2 --batch 1 --threads 1".split()
    monkeypatch.setattr("sys.argv", ["train_wide.py", *words, "--processes", "2"])
    train_wide.main()
    before, after = (load_folder(folder).state_dict() for folder in (ASSETS / "small", out))
    assert any(not torch.equal(before[name], after[name]) for name in before)
