import torch
from torch.nn.functional import interpolate

from hdvl.positions import KeptTables, resized


def test_equal_grids_leave_the_table_alone() -> None:
    table = torch.randn(6, 4)
    assert resized(table, (2, 3), (2, 3)) is table


def test_rows_and_columns_are_told_apart() -> None:
    table = torch.arange(2.0)[:, None, None].expand(2, 4, 1)  # the row's number
    rows = resized(table.reshape(8, 1), (2, 4), (6, 4)).reshape(6, 4)
    assert torch.equal(rows, rows[:, :1].expand(6, 4))
    assert (rows.diff(dim=0) > -0.1).all()
    assert rows[-1, 0] - rows[0, 0] > 0.9


def test_half_precision_is_rounded_once() -> None:
    table = torch.randn(16, 4, dtype=torch.bfloat16)
    wanted = interpolate(table.float().T.reshape(1, 4, 4, 4), (7, 5), mode="bicubic")
    ours = resized(table, (4, 4), (7, 5))
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, wanted.flatten(2)[0].T.bfloat16())


def test_tables_are_kept_until_a_value_changes() -> None:
    table = torch.randn(16, 4, requires_grad=True)
    keep, calls = KeptTables(), list[tuple[int, int]]()

    def asked(grid: tuple[int, int]) -> torch.Tensor:
        def resize() -> torch.Tensor:
            calls.append(grid)
            return resized(table, (4, 4), grid)

        found = keep(table, grid, resize)
        assert torch.equal(found, resized(table, (4, 4), grid))
        return found

    with torch.inference_mode():
        asked((7, 5)), asked((7, 5)), asked((5, 7)), asked((7, 5))
    assert calls == [(7, 5), (5, 7)]
    table.data[3, 2] += 1  # which the version counter of a tensor does not show
    with torch.no_grad():
        kept = asked((7, 5))
    assert len(calls) == 3 and not kept.is_inference() and not kept.requires_grad
    assert asked((7, 5)).requires_grad and len(calls) == 4  # gradients need a call of their own
    with torch.no_grad():
        for side in range(5, 5 + KeptTables.most):
            asked((side, side))
        asked((7, 5))
    assert len(calls) == 4 + KeptTables.most + 1
