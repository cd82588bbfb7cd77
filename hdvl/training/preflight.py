"""Checks of a whole run before it writes or trains anything.

The model of each stage is built on ``meta``, tuned, and given its optimizer, trainer, callbacks and
data, as the stage itself will do.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from hdvl.checkpoints.selfcontained import self_contained
from hdvl.config import build
from hdvl.meta import on_meta
from hdvl.misfits import reported_together
from hdvl.model import VLM
from hdvl.training.checks import check_stage
from hdvl.training.frozen import parts_from_files, stays
from hdvl.training.groups import build_optimizer, parameter_groups
from hdvl.training.lengths import set_lengths
from hdvl.training.schedule import check_warmup
from hdvl.training.start import check_start
from hdvl.training.tuning import apply_tuning

BuildData = Callable[..., pl.LightningDataModule]


def check_stages(
    stages: Sequence[dict[str, Any]], build_data: BuildData, init_from: str | Path | None
) -> None:
    """Check every stage of a run, and that its model can be saved and started from ``init_from``.

    Lengths that depend on the data are replaced by counts (see :func:`set_lengths`), in place.

    Args:
        stages: the resolved config of each stage; they share the model.
        build_data: gives the data module for (the stage's ``data`` config, the VLM, ``seed=``).
        init_from: the folder of the model whose weights the run starts from.

    Raises:
        ValueError: something is wrong; the message names the stage if there are several.
    """
    for number, stage in enumerate(stages):
        with _named(stage, number, len(stages)):
            check_stage(stage)
    node = stages[0]["model"]
    with reported_together(node):
        vlm: VLM = on_meta(node)
    self_contained(node, vlm)
    if init_from is not None:
        new_parts = stages[0].get("new_parts") or ()
        check_start(vlm, Path(init_from), new_parts, source=f"init_from={init_from}")
        warn_of_untrained(stages)
    for number, stage in enumerate(stages):
        with _named(stage, number, len(stages)):
            data = build_data(stage["data"], vlm, seed=stage["seed"])
            # The number of ranks is needed before the lengths are known in Lightning's terms.
            asked = {"logger": False, "max_epochs": -1, "val_check_interval": None}
            set_lengths(stage, data, ranks=build_trainer(stage, **asked).world_size)
            build_trainer(stage, logger=False)
            check_tuned(deepcopy(vlm), stage)


def warn_of_untrained(stages: Sequence[Mapping[str, Any]]) -> None:
    """Warn of new parts that have random weights and that no stage trains."""
    read = parts_from_files(stages[0]["model"], None, ())
    for part in stages[0].get("new_parts") or ():
        if part not in read and all(stays(stage["tuning"], part) for stage in stages):
            warnings.warn(
                f"{part} is new, has random weights and stays frozen. tuning.{part}=full trains it; "
                f"{part}.weights=FILE reads trained weights where the part has this key",
                stacklevel=2,
            )


def check_tuned(vlm: VLM, stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Apply the tuning of ``stage`` to ``vlm``, which is on ``meta``, and return its optimizer groups.

    Raises:
        ValueError: the ``tuning`` or ``optimizer`` config does not fit the model.
    """
    with torch.device("meta"):
        apply_tuning(vlm, stage["tuning"])
    optimizer = stage["optimizer"]
    groups = parameter_groups(vlm, optimizer["groups"], optimizer["common"])
    check_warmup(groups, stage["trainer"]["max_steps"])
    build_optimizer(optimizer, groups)
    return groups


_NO_GPU = " Choose trainer.accelerator=cpu or auto; hdvl doctor says whether this torch was built for a GPU"


def build_trainer(stage: Mapping[str, Any], **changes: Any) -> pl.Trainer:
    """Build the trainer of a stage with its callbacks.

    Raises:
        ValueError: Lightning rejects the ``trainer`` config.
    """
    callbacks = [build(node) for node in stage["callbacks"].values()]
    options = {"default_root_dir": stage["run_dir"], "callbacks": callbacks}
    try:
        trainer: pl.Trainer = build({**stage["trainer"], **changes}, **options)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ValueError(
            f"trainer: {error}{_NO_GPU if 'gpu backend' in str(error) else ''}"
        ) from error
    return trainer


def callbacks_of(trainer: Any) -> list[pl.Callback]:
    """Return the callbacks of a trainer; type checkers do not know this attribute."""
    return list(trainer.callbacks)


def ignore_advice() -> None:
    """Silence Lightning's warnings that do not apply here."""
    for message in (
        ".*does not have many workers.*",  # the number of workers is set in the config
        ".*ended before the epoch ended.*",  # the data module continues at the next sample
        ".*Total length of `list` across ranks is zero.*",  # no validation data was given
        ".*in eval mode at the start of training.*",  # frozen parts stay in evaluation mode
        ".*overridden `transfer_batch_to_device`.*",  # the implementation of the module is intended
        ".*treespec, LeafSpec.*",  # an internal matter of Lightning and torch
        ".*GPU available but not used.*",
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def _named(stage: Mapping[str, Any], number: int, count: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        if count == 1:
            raise
        name = Path(stage["run_dir"]).name.partition("-")[2]
        raise ValueError(f"stages.{number} ({name}): {error}") from error
