"""The tool that trains on all documents at once: its batches, its losses, its learning rates."""

from pathlib import Path

import pytest
import torch
from train_wide import Wide, cell_loss, groups, tile_cells

from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.cells import cell_labels, classes
from hdvl.data.synthetic.questions import refusal
from hdvl.inference.load import load
from hdvl.model import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return load(ASSETS / "small").model


def test_cells_of_tiles_are_those_of_the_page(vlm: VLM) -> None:
    documents = SyntheticDocuments(seed=1, kinds="form", width=(320, 320), height=(256, 256))
    document = documents[0]
    plan = vlm.tiler.plan(*document.image.size)
    cells = tile_cells(document, plan)
    assert cells.shape == (plan.count, 28 * 28)
    assert plan.thumbnail_index == 0 and bool((cells[0] == -100).all())
    page = cell_labels(document)[0]
    assert torch.equal(cells[1].view(28, 28), page[:28, :28])


def test_answers_are_values_boxes_and_refusals(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_wide.ABSENT", 0.5)
    data = Wide(vlm, 1, pages=0.0, area=60_000)
    data.documents = lambda rng: iter(  # type: ignore[method-assign]
        [SyntheticDocuments(seed=5, kinds="form", width=(320, 320), height=(256, 256))[2]]
    )
    batch, named, following, cells = data[0]
    assert cells.shape[0] == batch.pixels.shape[0]
    for found in (named, following):
        assert len(found.queries) == len(found.images) == len(found.found) > 0
        kept = found.found[found.found >= 0]
        assert bool((batch.input_ids[0, kept] == vlm.image_token_id).all())
        assert bool((batch.labels[0, found.queries + 1] >= 0).all())
    text = vlm.llm.tokenizer.decode(batch.labels[0][batch.labels[0] >= 0])
    assert refusal("en") in text or refusal("zh") in text


def test_the_loss_of_cells_is_lower_for_the_right_ones() -> None:
    cells = torch.randint(1, 5, (2, 30))
    right = torch.nn.functional.one_hot(cells, 6).float() * 9
    loss, share = cell_loss(torch.nn.Identity(), right, cells)
    other, none = cell_loss(torch.nn.Identity(), right.roll(1, -1), cells)
    assert loss < other and share == 1 and none == 0
    empty, _ = cell_loss(torch.nn.Identity(), right, torch.full_like(cells, -100))
    assert empty.isfinite()


def test_every_part_learns_and_upper_layers_faster(vlm: VLM) -> None:
    heads = torch.nn.Linear(2, 2)
    found = groups(vlm, heads, 1.0, 0.5)
    counted = sum(p.numel() for group in found for p in group["params"])
    assert counted == sum(p.numel() for p in [*vlm.parameters(), *heads.parameters()])
    layers = [group["lr"] for group in found[2 : 2 + len(vlm.llm.model.model.layers)]]
    assert layers == sorted(layers) and layers[-1] == 1.0
    assert len(classes()) > 100


def test_a_font_that_is_not_installed_is_named(tmp_path: Path) -> None:
    from hdvl.data.synthetic import fonts

    with pytest.raises(ModuleNotFoundError, match="need the font package 'font_nowhere'"):
        fonts._locate("font_nowhere", "a.ttf")
