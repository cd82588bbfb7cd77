"""The config of a stage is in hparams.yaml and in TensorBoard's HParams tab, together with the losses."""

from pathlib import Path

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from hdvl.training.hyperparameters import hyperparameters, log_hyperparameters

STAGE = {
    "seed": 1,
    "run_dir": "runs/a",
    "model": {"encoder": {"_target_": "hdvl.encoders.ConvStem", "width": 16, "sizes": [1, 2]}},
    "optimizer": {"common": {"lr": 1e-3}},
    "trainer": {"max_steps": 5, "logger": ["left out"], "accelerator": "cpu"},
    "callbacks": {"guard": {"spike": 20}},
}


def test_values_are_flat_and_lists_are_text() -> None:
    assert hyperparameters(STAGE) == {
        "seed": 1,
        "model.encoder._target_": "hdvl.encoders.ConvStem",
        "model.encoder.width": 16,
        "model.encoder.sizes": "[1, 2]",
        "optimizer.common.lr": 1e-3,
        "trainer.max_steps": 5,
        "trainer.accelerator": "cpu",
    }


def test_loggers_get_them_without_a_made_up_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="", default_hp_metric=False)
    log_hyperparameters([logger], STAGE)
    logger.save()
    logger.finalize("success")
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == hyperparameters(STAGE)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    assert start.session_start_info.hparams["optimizer.common.lr"].number_value == 1e-3
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert "validation/loss" in [info.name.tag for info in experiment.metric_infos]
    assert events.Tags()["scalars"] == []
