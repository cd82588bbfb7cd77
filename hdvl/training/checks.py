"""Checks the config of a stage before anything is built, so that wrong numbers fail early."""

from typing import Any

from hdvl.loss import WEIGHTINGS, check_first_token_weight
from hdvl.training.cluster import strategy_of
from hdvl.training.schedule import check_schedule

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
_SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}


def precision_of(trainer: Any) -> str:
    """Return Lightning's name of ``trainer.precision``."""
    given = str(trainer["precision"])
    name = _SHORT.get(given, given)
    if name not in PRECISIONS:
        raise ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {given}")
    return name


def check_stage(stage: Any, *, gpus: int = 1) -> None:
    """Check the numbers in the plain config ``stage`` that are not checked where they are used.

    Raises:
        ValueError: a number is out of range; the message names its key.
    """
    trainer, data, optimizer = stage["trainer"], stage["data"], stage["optimizer"]
    if gpus < 1:
        raise ValueError(f"gpus must be at least 1, got {gpus}")
    for name in ("max_steps", "accumulate_grad_batches"):
        if int(trainer[name]) < 1:
            raise ValueError(f"trainer.{name} must be at least 1, got {trainer[name]}")
    epochs = trainer.get("max_epochs", -1)
    if epochs not in (None, -1) and (isinstance(epochs, bool) or not epochs > 0):
        raise ValueError(
            f"trainer.max_epochs must be above 0, or -1 for trainer.max_steps alone, got {epochs}"
        )
    if trainer["gradient_clip_val"] is not None and trainer["gradient_clip_val"] < 0:
        raise ValueError(
            f"trainer.gradient_clip_val must be at least 0, got {trainer['gradient_clip_val']}"
        )
    precision_of(trainer)
    if data["batch_size"] < 1 or data["num_workers"] < 0:
        raise ValueError(
            "data.batch_size must be at least 1 and data.num_workers at least 0, got "
            f"{data['batch_size']} and {data['num_workers']}"
        )
    check_schedule(optimizer["schedule"])
    weighting = optimizer.get("weighting", "token")
    if weighting not in WEIGHTINGS:
        raise ValueError(
            f"optimizer.weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting}"
        )
    check_first_token_weight(optimizer.get("first_token_weight", 1.0))
    strategy = strategy_of(trainer["strategy"], gpus)
    if strategy == "fsdp2" and "qlora" in stage["tuning"].values():
        raise ValueError(
            "trainer.strategy of trainer=fsdp2 cannot shard four-bit weights, tuning has qlora; "
            "train with trainer=ddp or tuning.llm=lora"
        )
