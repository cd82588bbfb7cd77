"""The DeepSpeed strategy of Lightning, with checks of what it needs."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def hides_norm(trainer: Any) -> bool:
    """Return whether DeepSpeed holds the gradients."""
    return getattr(trainer.strategy, "deepspeed_engine", None) is not None


def hidden_norm(trainer: Any) -> Tensor | None:
    """Return the gradient norm of the last step if DeepSpeed holds the gradients, else None."""
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    return None if engine is None else torch.as_tensor(engine.get_global_grad_norm())


def deepspeed(*, stage: int = 2, **options: Any) -> Any:
    """Lightning's ``DeepSpeedStrategy``; ``options`` are its arguments.

    Raises:
        ValueError: DeepSpeed or a CUDA device is missing, or a stage that hides the weights.
    """
    if stage not in (0, 1, 2):
        raise ValueError(
            f"trainer.strategy.stage must be 0, 1 or 2, got {stage}: the audit and the final model "
            "need whole weights; to shard them, train with trainer=fsdp2"
        )
    if find_spec("deepspeed") is None:
        raise ValueError(
            "trainer=deepspeed needs DeepSpeed, which is not installed; pip install "
            "'hdvl[distributed]', or train with trainer=fsdp2"
        )
    if not torch.cuda.is_available():
        raise ValueError(
            "trainer=deepspeed needs a CUDA device, there is none; train with trainer=ddp or fsdp2"
        )
    from lightning.pytorch.strategies import DeepSpeedStrategy

    return DeepSpeedStrategy(stage=stage, **options)
