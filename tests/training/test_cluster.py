"""Estimates for several devices: formulas by hand, and the fitted curve against a measurement."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from hdvl.config import compose
from hdvl.meta import on_meta
from hdvl.model import VLM
from hdvl.training.cluster import Peak, estimate, fit, gathered, strategy_of, traffic
from hdvl.training.estimate import measure

SHARDED = {"_target_": "hdvl.training.sharding.FullySharded"}


class Micro(NamedTuple):
    """One micro-batch."""

    positions: int = 600
    tiles: int = 5
    squares: int = 360_000


@dataclass
class Loads:
    """Eight equal ones."""

    micros: tuple[Micro, ...] = (Micro(),) * 8
    tokens: int = 4000
    balance: tuple[float, float] = (1.25, 1.0)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return on_meta(compose("encoder=tiny", "llm=tiny").model)


def trainer(strategy: Any, precision: str = "32-true") -> dict[str, Any]:
    return {"accumulate_grad_batches": 2, "precision": precision, "strategy": strategy}


def peak(memory: float | None = None) -> Peak:
    return Peak(flops=1e12, memory=memory, bandwidth=1e9, utilisation=0.5)


@pytest.mark.slow
def test_the_curve_predicts_other_points(vlm: VLM) -> None:
    curve, plan = fit(vlm), vlm.tiler.plan(900, 500)
    length = vlm.merger.token_count(plan) + 300
    cost = measure(vlm, plan, text_tokens=300)
    assert curve.step(plan.count, length, length**2) == pytest.approx(cost.step, rel=0.02)
    assert curve.saved(plan.count, length, length**2) == pytest.approx(cost.saved, rel=0.05)


def test_traffic_by_hand(vlm: VLM) -> None:
    weights = sum(p.numel() for p in vlm.parameters())
    options: dict[str, Any] = {"gpus": 4, "accumulate": 3, "precision": "bf16-true"}
    assert traffic(vlm, strategy="ddp", **options) == int(2 * 2 * weights * 3 / 4)
    assert traffic(vlm, strategy="fsdp2", **options) == int(3 * 2 * weights * 3 / 4) * 3
    vlm.encoder.requires_grad_(False)
    try:
        frozen = sum(p.numel() for p in vlm.encoder.parameters())
        assert traffic(vlm, strategy="ddp", **options) == int(4 * (weights - frozen) * 3 / 4)
    finally:
        vlm.encoder.requires_grad_(True)


def test_a_step_by_hand(vlm: VLM) -> None:
    taken = estimate(vlm, Loads(), trainer=trainer("auto"), gpus=2, peak=peak())
    assert taken.strategy == "ddp" and taken.steps == 2
    assert taken.compute == pytest.approx(taken.flops / 2 / 2 * 1.25 / 0.5e12)
    assert taken.traffic == taken.sent / 1e9
    slow, fast = taken.tokens_per_second
    assert slow == pytest.approx(2000 / (taken.compute + taken.traffic))
    assert fast == pytest.approx(2000 / max(taken.compute, taken.traffic))


@pytest.mark.slow
def test_shares_of_memory(vlm: VLM) -> None:
    alone = estimate(vlm, Loads(), trainer=trainer("auto"), gpus=1, peak=peak()).memory
    shared = estimate(vlm, Loads(), trainer=trainer(SHARDED), gpus=4, peak=peak()).memory
    assert shared.optimizer == alone.optimizer // 4 and shared.activations == alone.activations
    assert shared.weights == alone.weights // 4 + gathered(vlm, "32-true")
    with pytest.raises(ValueError, match=r"peak\.memory=1e\+03 bytes of a device must hold"):
        estimate(vlm, Loads(), trainer=trainer("auto"), gpus=1, peak=peak(1000.0))


def test_strategies_by_name() -> None:
    assert [strategy_of("auto", 1), strategy_of("auto", 2)] == ["alone", "ddp"]
    assert strategy_of(SHARDED, 8) == "fsdp2"
    assert strategy_of({"_target_": "hdvl.training.deepspeed.deepspeed"}, 8) == "deepspeed"
    with pytest.raises(ValueError, match=r"trainer\.strategy must be auto or .* got fsdp"):
        strategy_of("fsdp", 8)
