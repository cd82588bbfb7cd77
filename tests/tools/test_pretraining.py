"""Functions shared by the trainings of the small model."""

import random
from pathlib import Path

import pytest
import torch
from pretraining import (
    LOCATIONS,
    average_gradients,
    box_figures,
    box_values,
    location_rows,
    place_locations,
    place_on_page,
)
from torch.nn.functional import cosine_similarity

from hdvl.checkpoints.sources import ASSETS
from hdvl.inference.load import load


def test_documents_stand_on_whole_tokens_inside_the_page() -> None:
    rng = random.Random(1)
    for _ in range(50):
        x, y, width, height = place_on_page(rng, 400, 300)
        assert x % 16 == y % 16 == 0
        assert x + 400 <= width <= 1120
        assert y + 300 <= height <= 896


def test_box_values_are_those_of_the_first_box() -> None:
    assert box_values("<box><loc_1><loc_20><loc_300><loc_999></box><loc_5>") == [1, 20, 300, 999]
    assert box_values("12") == []


def test_box_figures() -> None:
    found = torch.tensor([[0, 0, 10, 6], [5, 5, 3, 3]])  # the second has no area
    figures = box_figures(found, torch.tensor([[0, 0, 10, 10], [5, 5, 6, 7]]))
    assert figures["boxes right"] == 0.5
    assert figures["off y2"] == 4


def test_near_locations_begin_alike_and_no_other_row_moves() -> None:
    vlm = load(ASSETS / "small").model
    table = vlm.llm.model.get_input_embeddings().weight
    first = vlm.llm.tokenizer.convert_tokens_to_ids("<loc_0>")
    before = table.detach().clone()
    place_locations(vlm)
    rows = location_rows(vlm)
    assert len(rows) == LOCATIONS
    near, far = (cosine_similarity(rows[500], rows[500 + step], dim=0) for step in (1, 7))
    assert near > far
    torch.testing.assert_close(table[:first], before[:first], rtol=0, atol=0)
    torch.testing.assert_close(table[first + LOCATIONS :], before[first + LOCATIONS :])


def _averaged(rank: int, meet: str, out: str) -> None:
    """Leave the averaged gradients of one of two processes; only the first has one for the bias."""
    store = torch.distributed.FileStore(meet, 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad = torch.full((1, 2), 1.0 + 2 * rank)
    layer.bias.grad = torch.ones(1) if rank == 0 else None
    average_gradients(layer)
    torch.save([part.grad for part in layer.parameters()], f"{out}{rank}.pt")


@pytest.mark.slow
def test_processes_step_along_the_mean_of_their_gradients(tmp_path: Path) -> None:
    words = str(tmp_path / "store"), str(tmp_path / "found")
    torch.multiprocessing.spawn(_averaged, words, nprocs=2)
    for rank in range(2):
        weight, bias = torch.load(f"{words[1]}{rank}.pt", weights_only=True)
        assert weight.tolist() == [[2.0, 2.0]] and bias.tolist() == [0.5]
