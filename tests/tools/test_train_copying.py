"""The tool that adds layers for copying: positions of characters, and growth that does not change outputs."""

from itertools import pairwise

import pytest
import torch
from train_copying import Answered, characters, grow, spell, trained_groups
from train_small import answers, placed_documents

from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.inference.load import load
from hdvl.model import VLM

LOW_PAGES = {"width": (320, 480), "height": (224, 352)}


@pytest.fixture
def vlm() -> VLM:
    return load(ASSETS / "small").model


def test_the_characters_of_every_field_are_found() -> None:
    documents = SyntheticDocuments(seed=3, **LOW_PAGES)
    for number in range(20):
        document = documents[number]
        for field in document.fields:
            boxes = characters(document, field)
            assert len(boxes) == len(field.value.replace(" ", ""))
            assert all(one[0] < other[0] for one, other in pairwise(boxes))
            assert all(box[1] - 2 <= field.box[1] and field.box[3] <= box[3] + 2 for box in boxes)


def test_spaces_have_no_box() -> None:
    first, last = [1, 2, 3, 4], [5, 6, 7, 8]
    assert spell("a b", [first, last]) == [first, None, last]


def test_each_answer_token_gets_the_box_of_the_character_it_begins_with(vlm: VLM) -> None:
    data = Answered(vlm, 1, mix="small", pages=0.0, area=100_000)
    with placed_documents():
        batch, where, boxes = data[0]
    labels = batch.labels[0]
    assert len(where) == len(boxes) > 0
    assert bool((labels[where + 1] != -100).all())
    # Within an answer what comes next stands to the right of what came before, on the same line.
    follows = where[1:] == where[:-1] + 1
    assert bool(follows.any())
    assert bool((boxes[1:, 0] > boxes[:-1, 0])[follows].all())
    assert bool((boxes[1:, 1] == boxes[:-1, 1])[follows].all())
    read = [run for run in answers(labels) if "<box>" not in vlm.llm.tokenizer.decode(labels[run])]
    assert {position - 1 for run in read for position in run[:1]} <= set(where.tolist())


@pytest.mark.slow
def test_added_layers_change_nothing_until_they_are_trained(vlm: VLM) -> None:
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = vlm.llm(vlm.llm.embed(ids))
        grow(vlm, 2)
        after = vlm.llm(vlm.llm.embed(ids))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    config = vlm.llm.model.config
    assert config.num_hidden_layers == len(vlm.llm.model.model.layers)
    assert len(config.layer_types) == config.num_hidden_layers


@pytest.mark.slow
def test_only_the_layers_from_the_given_one_on_are_trained(vlm: VLM) -> None:
    depth = len(vlm.llm.model.model.layers)
    groups = trained_groups(vlm, depth - 1, 1e-3, 0.5)
    trained = {name for name, value in vlm.named_parameters() if value.requires_grad}
    assert trained
    assert all(
        f".layers.{depth - 1}." in name or name.endswith("model.norm.weight") for name in trained
    )
    assert sum(len(group["params"]) for group in groups) == len(trained)


def test_with_all_layers_rates_fall_from_layer_to_layer(vlm: VLM) -> None:
    groups = trained_groups(vlm, 0, 1.0, 0.5)
    depth = len(vlm.llm.model.model.layers)
    rates = [group["lr"] for group in groups[1 : depth + 1]]
    assert rates == [0.5**n for n in reversed(range(depth))]
    assert not any(value.requires_grad for value in vlm.encoder.parameters())
    assert all(value.requires_grad for value in vlm.bridge.parameters())
