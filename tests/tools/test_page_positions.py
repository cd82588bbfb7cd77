"""Positions of small documents in training: those that their tokens would have on the page around them."""

import pytest
import torch
from page_positions import grid_positions, page_positions
from pretraining import TOKEN
from shared_attention import positions_of
from train_small import place

from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import Document, SyntheticDocuments, read
from hdvl.inference.load import load
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, pack
from hdvl.protocols import Message, SharedPrefix


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return load(ASSETS / "small").model


def asked(vlm: VLM, *documents: Document) -> Batch:
    """A packed row of documents, each with two questions."""
    samples = []
    for document in documents:
        field = document.fields[0]
        turns = [Message("user", read(field).text, (document.image,)), Message("assistant", "3")]
        samples.append(Processor.of(vlm)(SharedPrefix((turns, turns))))
    return pack(samples)


def document(width: int, height: int) -> Document:
    return SyntheticDocuments(seed=3, kinds="form", width=(width,) * 2, height=(height,) * 2)[0]


def test_tokens_of_whole_pages_keep_their_positions(vlm: VLM) -> None:
    batch = asked(vlm, document(896, 672))
    assert batch.segments is not None
    positions = page_positions(batch, vlm.image_token_id, vlm.tiler)
    assert torch.equal(positions, positions_of(batch.segments))


def test_tokens_of_small_documents_stand_where_they_are_on_the_page(vlm: VLM) -> None:
    width, height = 400, 288
    plan = vlm.tiler.plan(width, height)
    positions, count = grid_positions(plan, vlm.tiler)
    x, y, *page = place(width, height)
    page_cols, page_rows = (side // TOKEN for side in vlm.tiler.plan(*page).canvas)
    assert count == page_rows * (page_cols + 1)
    cols, rows = (side // TOKEN for side in plan.canvas)
    table = positions.view(rows, cols + 1)
    assert bool((table[:, 1:-1].diff() == 1).all()), "tokens of a line follow each other"
    assert bool((table.diff(dim=0) == page_cols + 1).all()), (
        "lines are as long as those of the page"
    )
    assert bool((table[:, -1] % (page_cols + 1) == page_cols).all()), "their last token ends them"
    row, col = divmod(int(table[0, 0]), page_cols + 1)
    assert row * TOKEN == pytest.approx(y, abs=2 * TOKEN)
    assert col * TOKEN == pytest.approx(x, abs=2 * TOKEN)
    assert int(positions.max()) < count


def test_questions_follow_the_page(vlm: VLM) -> None:
    batch = asked(vlm, document(400, 288), document(896, 672))
    assert batch.segments is not None
    positions = page_positions(batch, vlm.image_token_id, vlm.tiler)
    assert positions.shape == batch.input_ids[0].shape
    first, question, other = batch.segments[0]
    _, count = grid_positions(batch.plans[0], vlm.tiler)
    places = vlm.merger.places(batch.plans[0])
    grid = len(grid_positions(batch.plans[0], vlm.tiler)[0])
    begin = first - grid + count
    assert torch.equal(positions[first : first + question], begin + torch.arange(question))
    asked_again = positions[first + question : first + question + other]
    assert torch.equal(asked_again, begin + torch.arange(other))
    assert len(places) > grid, "the tokens of the thumbnail come before"
    assert torch.equal(positions[: first - grid], torch.arange(first - grid))
    assert int(positions[first + question + other]) == 0, "the next image begins anew"
