"""Learning-rate schedules: a linear warm-up, then cosine, linear or constant, for each group."""

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
    """Return the learning rate of optimizer step ``step`` (from 0) as a fraction of the peak.

    The rate rises in equal steps during the warm-up, whose last step has the peak rate;
    ``warmup_steps`` below 1 is a fraction of ``total_steps``. From step ``total_steps`` on the rate is
    ``min_lr_ratio``. The cosine schedule is that of SGDR (arXiv 1608.03983) without restarts.
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
    """Return the number of warm-up steps. ``warmup_steps`` below 1 is a fraction of the run, rounded up.

    A fraction leaves at least one step for the rest of the run.
    """
    if warmup_steps >= 1:
        return int(warmup_steps)
    return min(math.ceil(warmup_steps * total_steps), max(0, total_steps - 1))


def check_schedule(schedule: str) -> None:
    """Raise a ``ValueError`` if there is no schedule of this name."""
    if schedule not in SCHEDULES:
        raise ValueError(
            f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, got {schedule}"
        )


def check_warmup(groups: Sequence[Mapping[str, Any]], total_steps: int) -> None:
    """Raise a ``ValueError`` if the warm-up of a group is not shorter than the run."""
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
    """Return a scheduler that is stepped once for each optimizer step.

    Each group has ``warmup_steps`` and ``min_lr_ratio`` (see ``groups.parameter_groups``). The state is
    only the step number, so a run may be resumed with another ``total_steps``.
    """
    check_schedule(schedule)
    if total_steps < 1:
        raise ValueError(
            f"total_steps must be at least 1, got {total_steps}; set trainer.max_steps"
        )
    check_warmup(optimizer.param_groups, total_steps)

    # Closures instead of objects, whose attributes LambdaLR would store in the checkpoint and restore.
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
    """Return the options of each group, without its parameters."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def follow(scheduler: LambdaLR, options: Sequence[Mapping[str, Any]]) -> None:
    """Make ``scheduler`` and its optimizer use ``options`` after they were loaded from a checkpoint.

    A checkpoint restores the learning rates, decay and other options that the run had then. The config
    may have changed since; computed state (moments, the step) is kept.
    """
    scheduler.base_lrs = [own["initial_lr"] for own in options]
    groups = zip(scheduler.optimizer.param_groups, options, scheduler.lr_lambdas, strict=True)
    for group, own, factor in groups:
        group.update(own, lr=own["initial_lr"] * factor(scheduler.last_epoch))
