"""Learning-rate schedules: per group a linear warm-up, then cosine, linear or constant."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("cosine", "linear", "constant")


def rate_factor(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int | float,
    min_lr_ratio: int | float,
    schedule: str = "cosine",
) -> float:
    """Learning rate of optimizer step ``step`` (from 0) as a share of the peak.

    Warm-up goes up in equal steps and its last step has the peak rate; ``warmup_steps`` below 1
    is a share of ``total_steps``. The rate is ``min_lr_ratio`` from step ``total_steps`` on. Cosine is
    that of SGDR (arXiv 1608.03983) without restarts.
    """
    warmup = warmup_length(warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    share = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    fall = (1 + math.cos(math.pi * share)) / 2 if schedule == "cosine" else 1 - share
    return min_lr_ratio + (1 - min_lr_ratio) * fall


def warmup_length(warmup_steps: int | float, total_steps: int) -> int:
    """Number of warm-up steps: ``warmup_steps``, or if that is below 1 this fraction of the run, rounded up.

    A fraction leaves at least one step for the rest of the run.
    """
    if warmup_steps >= 1:
        return int(warmup_steps)
    return min(math.ceil(warmup_steps * total_steps), max(0, total_steps - 1))


def check_schedule(schedule: str) -> None:
    """ValueError if there is no schedule of this name."""
    if schedule not in SCHEDULES:
        raise ValueError(
            f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, got {schedule}"
        )


def check_warmup(groups: Sequence[Mapping[str, Any]], total_steps: int) -> None:
    """ValueError if the warm-up of some group is not shorter than the run."""
    for group in groups:
        warmup = warmup_length(group["warmup_steps"], total_steps)
        if warmup >= total_steps and group["warmup_steps"] > 0:
            raise ValueError(
                f"warmup_steps of {group['name']} must be below the total of {total_steps} steps, "
                f"got {warmup}; lower optimizer.groups.{group['part']}.warmup_steps"
            )


def build_scheduler(
    optimizer: Optimizer, *, total_steps: int, schedule: str = "cosine"
) -> LambdaLR:
    """A scheduler that is stepped once an optimizer step.

    Each group brings ``warmup_steps`` and ``min_lr_ratio`` (see ``groups.parameter_groups``). Its state is
    only the step number, so a run may be resumed with another ``total_steps``.
    """
    check_schedule(schedule)
    if total_steps < 1:
        raise ValueError(
            f"total_steps must be at least 1, got {total_steps}; set trainer.max_steps"
        )
    check_warmup(optimizer.param_groups, total_steps)

    # Closures, not objects: LambdaLR would put an object's numbers into the checkpoint and back.
    def factor(warmup_steps: int | float, min_lr_ratio: int | float) -> Callable[[int], float]:
        return lambda step: rate_factor(
            step,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            min_lr_ratio=min_lr_ratio,
            schedule=schedule,
        )

    return LambdaLR(
        optimizer,
        [factor(group["warmup_steps"], group["min_lr_ratio"]) for group in optimizer.param_groups],
    )


def present_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What each group was given, but for its parameters."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def follow(scheduler: LambdaLR, options: Sequence[Mapping[str, Any]]) -> None:
    """Let ``scheduler`` and its optimizer, read from a checkpoint, go by ``options``.

    The checkpoint brings back rates, decay and the like of the run as it was, which may have been given
    others since; what was computed (moments, the step) stays.
    """
    scheduler.base_lrs = [own["initial_lr"] for own in options]
    groups = zip(scheduler.optimizer.param_groups, options, scheduler.lr_lambdas, strict=True)
    for group, own, factor in groups:
        group.update(own, lr=own["initial_lr"] * factor(scheduler.last_epoch))
