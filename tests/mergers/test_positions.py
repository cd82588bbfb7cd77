import math

import torch

from hdvl.mergers.positions import PERIODS, SourcePositions, waves


def test_waves() -> None:
    table = waves(torch.tensor([0.0, 0.25]))
    count = len(PERIODS)
    assert table.shape == (2, 2 * count)
    assert table[0].tolist() == [0.0] * count + [1.0] * count
    assert math.isclose(table[1, 0], math.sin(math.pi / 4), rel_tol=1e-6)


def test_coordinates_of_0_to_1000_are_all_different() -> None:
    table = waves(torch.arange(1001) / 1000)
    distance = torch.cdist(table, table)
    distance.fill_diagonal_(math.inf)
    assert distance.min() > 0.1


def test_rows_and_columns_add_up() -> None:
    positions = SourcePositions(width=6)
    xs, ys = torch.rand(4), torch.rand(3)
    table = positions(torch.zeros(3, 4, 6), xs, ys)
    single = positions(torch.zeros(1, 1, 6), xs[2:3], ys[1:2])
    assert torch.allclose(table[1, 2], single[0, 0], atol=1e-6)
    assert torch.allclose(
        positions(torch.zeros(3, 4, 6), xs, ys, thumbnail=True) - table,
        positions.thumbnail_embedding.expand(3, 4, 6),
        atol=1e-6,
    )


def test_added_positions_start_small() -> None:
    table = SourcePositions(width=64)(torch.zeros(9, 9, 64), torch.rand(9), torch.rand(9))
    assert 0.02 < table.std() < 0.3
