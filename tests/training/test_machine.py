"""The speed of this machine is measured, in the precision of a training."""

import pytest
import torch

from hdvl.plan import duration_text
from hdvl.training.machine import measure_machine


def test_products_of_matrices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = [0.0], []

    def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        sizes.append((one.shape, one.dtype))
        clock[0] += 0.25
        return one

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr("hdvl.training.machine.time.perf_counter", lambda: clock[0])
    found = measure_machine("bf16-mixed", "cpu", seconds=1.0)
    assert found.flops == pytest.approx(2 * 1024**3 / 0.25) and found.device.startswith("CPU")
    assert sizes == [((1024, 1024), torch.bfloat16)] * 5  # the first is not counted


def test_times_are_short_text() -> None:
    assert [duration_text(seconds) for seconds in (0.125, 75, 4000)] == [
        "0.12 s",
        "1:15",
        "1:06:40",
    ]
