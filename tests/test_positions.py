import torch
from torch.nn.functional import interpolate

from hdvl.positions import resized


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
