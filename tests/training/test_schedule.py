"""Learning-rate factors at chosen steps, one schedule a group, and resumption."""

import pytest
import torch
from torch import nn

from hdvl.training.schedule import build_scheduler, rate_factor, warmup_length


@pytest.mark.parametrize(
    ("step", "schedule", "factor"),
    [
        (0, "cosine", 0.1),
        (4, "cosine", 0.5),
        (9, "cosine", 1.0),
        (10, "cosine", 1.0),
        (60, "cosine", 0.2 + 0.8 * 0.5),
        (110, "cosine", 0.2),
        (500, "cosine", 0.2),
        (35, "linear", 0.2 + 0.8 * 0.75),
        (110, "linear", 0.2),
        (4, "constant", 0.5),
        (110, "constant", 1.0),
    ],
)
def test_factors(step: int, schedule: str, factor: float) -> None:
    found = rate_factor(step, total_steps=110, warmup_steps=10, min_lr_ratio=0.2, schedule=schedule)
    assert found == pytest.approx(factor)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert rate_factor(0, total_steps=10, warmup_steps=0, min_lr_ratio=0.0) == 1.0


def test_warm_up_below_one_is_a_share() -> None:
    assert warmup_length(0.03, 1000) == 30
    assert warmup_length(0.03, 10) == 1
    assert warmup_length(5, 10) == 5
    assert warmup_length(0, 10) == 0


def optimizer(**second: float) -> torch.optim.Optimizer:
    options = {"lr": 1.0, "warmup_steps": 0, "min_lr_ratio": 0.0, "part": "llm", "name": "llm"}
    return torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1))]} | options,
            {"params": [nn.Parameter(torch.zeros(1))]} | options | {"lr": 0.1} | second,
        ]
    )


def test_each_group_has_its_own_schedule() -> None:
    chosen = optimizer(warmup_steps=4, min_lr_ratio=0.5)
    scheduler = build_scheduler(chosen, total_steps=8, schedule="linear")
    rates = []
    for _ in range(8):
        rates.append([group["lr"] for group in chosen.param_groups])
        chosen.step()
        scheduler.step()
    assert [first for first, _ in rates] == pytest.approx([1 - step / 8 for step in range(8)])
    expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.0875, 0.075, 0.0625]
    assert [second for _, second in rates] == pytest.approx(expected)


def test_state_resumes_with_the_same_rates() -> None:
    first, second = optimizer(warmup_steps=2), optimizer(warmup_steps=2)
    before, after = build_scheduler(first, total_steps=9), build_scheduler(second, total_steps=9)
    for _ in range(5):
        first.step()
        before.step()
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    for _ in range(3):
        for chosen, scheduler in ((first, before), (second, after)):
            chosen.step()
            scheduler.step()
        assert [g["lr"] for g in first.param_groups] == [g["lr"] for g in second.param_groups]


def test_the_state_holds_no_total() -> None:
    state = build_scheduler(optimizer(), total_steps=9).state_dict()
    assert state["lr_lambdas"] == [None, None]


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"schedule must be one of cosine, .*, got cubic"):
        build_scheduler(optimizer(), total_steps=3, schedule="cubic")
    with pytest.raises(ValueError, match="total_steps must be at least 1, got 0"):
        build_scheduler(optimizer(), total_steps=0)
    with pytest.raises(ValueError, match="warmup_steps of llm must be below the total of 3 steps"):
        build_scheduler(optimizer(warmup_steps=3), total_steps=3)
