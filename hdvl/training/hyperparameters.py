"""The config of a stage as hyperparameters of its loggers."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from hdvl.plain import flatten

LOGGED = ("seed", "init_from", "model", "tuning", "optimizer", "trainer", "data")
METRICS = ("train/loss", "validation/loss", "validation/answers")


def hyperparameters(stage: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The values of a resolved ``stage`` by their dotted keys; lists as text."""
    chosen = {key: stage[key] for key in LOGGED if key in stage}
    chosen["trainer"] = {key: v for key, v in stage["trainer"].items() if key != "logger"}
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(chosen)
        if not key.endswith("_target_") or key.count(".") < 3
    }


def log_hyperparameters(loggers: Sequence[Any], stage: Mapping[str, Any]) -> None:
    """Hand the hyperparameters to ``loggers``; TensorBoard lists them in its HParams tab."""
    values = hyperparameters(stage)
    for logger in loggers:
        logger.log_hyperparams(values)
        if isinstance(logger, TensorBoardLogger):
            # Only the names of the metrics are registered here: their values are those of the curves.
            summaries = hparams(values, dict.fromkeys(METRICS, 0.0))  # type: ignore[no-untyped-call]
            for summary in summaries:
                logger.experiment.file_writer.add_summary(summary)
