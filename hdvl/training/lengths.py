"""How many steps a stage makes, from the number of epochs, and after how many batches it validates."""

from collections.abc import Sized
from math import ceil
from typing import Any, Protocol, runtime_checkable

EPOCHS, EVERY = "max_epochs", "val_check_interval"


@runtime_checkable
class CountedData(Protocol):
    """A data module whose conversations can be counted."""

    conversations: Sized
    validation: Sized | None
    batch_size: int
    packing: Any


def set_lengths(stage: dict[str, Any], data: object, *, ranks: int) -> None:
    """Replace the lengths of a resolved ``stage`` that depend on its data by counts, in place.

    ``trainer.max_epochs`` becomes the number of optimizer steps of so many passes over the training
    conversations; a smaller ``trainer.max_steps`` stays as it is. ``trainer.val_check_interval`` below 1
    is a fraction of the run, and becomes a number of batches. With validation data, a run that is shorter
    than the interval validates at its end.

    Args:
        stage: the config of the stage.
        data: its data module.
        ranks: the number of processes that train together.

    Raises:
        ValueError: the number of batches of an epoch is not known, because samples are packed.
    """
    trainer = stage["trainer"]
    accumulate, epochs = int(trainer["accumulate_grad_batches"]), trainer.get(EPOCHS, -1)
    if epochs not in (None, -1):
        if not isinstance(data, CountedData) or data.packing is not None:
            raise ValueError(
                f"trainer.{EPOCHS} needs batches of a fixed number of samples, packing has none; give "
                "trainer.max_steps (hdvl plan prints the steps of an epoch)"
            )
        step = data.batch_size * ranks * accumulate
        steps = max(1, ceil(len(data.conversations) * epochs / step))
        trainer |= {"max_steps": min(int(trainer["max_steps"]), steps), EPOCHS: -1}
    batches, every = int(trainer["max_steps"]) * accumulate, trainer.get(EVERY)
    if isinstance(every, float) and every < 1:
        trainer[EVERY] = max(1, int(every * batches))
    elif every is not None and getattr(data, "validation", None) is not None:
        trainer[EVERY] = min(int(every), batches)
