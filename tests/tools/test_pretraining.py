"""Functions shared by the trainings of the small model."""

import random

import torch
from pretraining import (
    LOCATIONS,
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
