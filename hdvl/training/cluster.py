"""Estimates memory, traffic and speed of a training on several devices from their peak numbers.

Operations and bytes are counted. Times are what the given devices need for them at the given utilisation;
nothing is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hdvl.model import VLM
from hdvl.protocols import TilePlan
from hdvl.training.estimate import Memory, measure, memory, weight_bytes
from hdvl.training.sharding import units

STRATEGIES = ("alone", "ddp", "fsdp2", "deepspeed")
_SAMPLES = ((64, 512), (64, 1024), (448, 1536))
"""(side of the image in tiles * 64, tokens of text) of the examples that costs are fitted to."""


@dataclass(frozen=True)
class Peak:
    """Peak numbers of one device.

    ``flops`` are FLOP/s, ``memory`` bytes (None: not checked), ``bandwidth`` bytes/s sent, and
    ``utilisation`` the fraction of ``flops`` that training reaches.
    """

    flops: float
    memory: float | None
    bandwidth: float
    utilisation: float

    def __post_init__(self) -> None:
        for name in ("flops", "memory", "bandwidth"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"peak.{name} must be above 0, got {value}")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"peak.utilisation must be in (0, 1], got {self.utilisation}")


@dataclass(frozen=True)
class Curve:
    """Cost of a batch as a function of its tiles, its positions and the sum of its squared lengths.

    ``step`` are the FLOPs of forward and backward pass, ``saved`` the bytes kept for the backward pass.
    """

    step: Callable[[int, int, int], float]
    saved: Callable[[int, int, int], float]


@runtime_checkable
class Load(Protocol):
    """The batch that one rank computes at a time (see ``hdvl.data.survey.Micro``)."""

    @property
    def positions(self) -> int: ...
    @property
    def tiles(self) -> int: ...
    @property
    def squares(self) -> int: ...


@runtime_checkable
class Loads(Protocol):
    """All batches of an epoch (see ``hdvl.data.survey.EpochBatches``)."""

    @property
    def micros(self) -> Sequence[Load]: ...
    @property
    def tokens(self) -> int: ...
    @property
    def balance(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Estimate:
    """Memory, traffic and time of each device.

    ``flops`` and ``steps`` are totals of the epoch. ``sent`` are bytes per step, ``compute`` and
    ``traffic`` seconds per step. ``tokens_per_second`` counts useful tokens of all devices, without and
    with overlap of compute and traffic.
    """

    strategy: str
    memory: Memory
    sent: int
    flops: float
    steps: float
    compute: float
    traffic: float
    tokens_per_second: tuple[float, float]

    def rows(self) -> list[tuple[str, float, str]]:
        """Return (name, number, unit) of each row of a table."""
        parts = [(f"memory, {name}", float(n), "B") for name, n in self.memory.rows()]
        slow, fast = self.tokens_per_second
        return [
            *parts,
            ("memory, all", float(self.memory.total), "B"),
            ("sent a step", float(self.sent), "B"),
            ("a step's compute", self.compute, "s"),
            ("a step's traffic", self.traffic, "s"),
            ("together, one after the other", slow, "tokens/s"),
            ("together, overlapped", fast, "tokens/s"),
        ]


def estimate(
    vlm: VLM, loads: Loads, *, trainer: Any, gpus: int, peak: Peak, libraries: int = 0
) -> Estimate:
    """Estimate an epoch of ``loads`` on ``gpus`` devices with the plain ``trainer`` config.

    ``libraries`` are bytes that a training on the CPU takes besides those of the model.

    Raises:
        ValueError: the memory of a device is too small.
    """
    accumulate, precision = trainer["accumulate_grad_batches"], str(trainer["precision"])
    strategy, curve = strategy_of(trainer["strategy"], gpus), fit(vlm)
    costs = [(micro.tiles, micro.positions, micro.squares) for micro in loads.micros]
    sharded = strategy == "fsdp2" and gpus > 1
    needed = memory(
        vlm,
        saved=int(max(curve.saved(*cost) for cost in costs)),
        precision=precision,
        shards=gpus if sharded else 1,
        gathered=gathered(vlm, precision) if sharded else 0,
        libraries=libraries,
    )
    if peak.memory is not None and needed.total > peak.memory:
        raise ValueError(
            f"peak.memory={peak.memory:.3g} bytes of a device must hold the {needed.total:.3g} of a "
            "step; lower data.batch_size or the packing's budget, train less (tuning=bridge_lora), "
            "or share the weights out (trainer=fsdp2, more gpus)"
        )
    flops = sum(curve.step(*cost) for cost in costs)
    steps = len(costs) / (gpus * accumulate)
    sent = traffic(vlm, strategy=strategy, gpus=gpus, accumulate=accumulate, precision=precision)
    compute = flops / steps / gpus * max(loads.balance) / (peak.flops * peak.utilisation)
    sending, tokens = sent / peak.bandwidth, loads.tokens / steps
    return Estimate(
        strategy=strategy,
        memory=needed,
        sent=sent,
        flops=flops,
        steps=steps,
        compute=compute,
        traffic=sending,
        tokens_per_second=(tokens / (compute + sending), tokens / max(compute, sending)),
    )


def fit(vlm: VLM) -> Curve:
    """Fit the cost of a batch to three examples that are measured on ``meta``."""
    rows, steps, saved = [], [], []
    size = vlm.tiler.tile_size
    for side, text in _SAMPLES:
        plan: TilePlan = vlm.tiler.plan(size * side // 64, size * side // 64)
        length = vlm.merger.token_count(plan) + text
        cost = measure(vlm, plan, text_tokens=text)
        rows.append([plan.count, length, length**2])
        steps.append(cost.step)
        saved.append(cost.saved)
    table = torch.tensor(rows, dtype=torch.float64)
    return Curve(_fitted_line(table, steps), _fitted_line(table, saved))


def gathered(vlm: VLM, precision: str) -> int:
    """Return the bytes that a rank of ``trainer=fsdp2`` gathers at a time: the root and two of the units."""
    sizes = [weight_bytes(unit.parameters(), precision) for unit in units(vlm)]
    root = weight_bytes(vlm.parameters(), precision) - sum(sizes)
    return root + sum(sorted(sizes)[-2:])


def traffic(vlm: nn.Module, *, strategy: str, gpus: int, accumulate: int, precision: str) -> int:
    """Bytes that each rank sends in an optimizer step, with ring collectives.

    DDP reduces gradients once a step; FSDP2 gathers the weights for the forward and again for the
    backward pass and scatters the gradients, each micro-batch.
    """
    share = (gpus - 1) / gpus
    total = weight_bytes(vlm.parameters(), precision)
    trainable = weight_bytes((p for p in vlm.parameters() if p.requires_grad), precision)
    if strategy == "fsdp2":
        return int((2 * total + trainable) * share) * accumulate
    return int(2 * trainable * share)


def strategy_of(node: Any, gpus: int) -> str:
    """Return which of :data:`STRATEGIES` a ``trainer.strategy`` is.

    Raises:
        ValueError: it is none of them, or it is for one device and there are several.
    """
    name = str(node["_target_"] if isinstance(node, dict) else node).rpartition(".")[2].lower()
    known = {"auto": "alone" if gpus == 1 else "ddp", "ddpstrategy": "ddp", "fullysharded": "fsdp2"}
    found = known.get(name, name)
    if found not in STRATEGIES[1:] and (found != "alone" or gpus > 1):
        raise ValueError(
            f"trainer.strategy must be auto or that of trainer=ddp, fsdp2 or deepspeed, got {name}"
        )
    return found


def _fitted_line(table: torch.Tensor, values: Sequence[float]) -> Callable[[int, int, int], float]:
    targets = torch.tensor(values, dtype=torch.float64)
    tiles, positions, squares = torch.linalg.solve(table, targets).tolist()
    return lambda t, s, q: float(max(0.0, tiles * t + positions * s + squares * q))
