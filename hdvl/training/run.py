"""From a configuration to a trained model."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from hdvl.config import build
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.training.module import VLMModule
from hdvl.training.tuning import apply_tuning


def build_data(config: Any, vlm: VLM, *, seed: int) -> ChatData:
    """The data module for ``config`` (the ``data`` group), finished with what the model knows."""
    boxes = vlm.template.boxes
    validation = config.validation
    return ChatData(
        train=build(config.train)(boxes=boxes),
        validation=None if validation is None else build(validation)(boxes=boxes),
        processor=Processor.of(vlm, max_length=config.max_length),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_factor,
        shuffle=config.shuffle,
        seed=seed,
    )


def run(config: Any) -> Path:
    """Train the model that ``config`` describes; returns the run folder."""
    from hdvl.config import to_plain

    pl.seed_everything(config.seed, verbose=False)
    folder = Path(config.run_dir)
    vlm: VLM = build(config.model)
    tuning, optimizer = to_plain(config.tuning), to_plain(config.optimizer)
    apply_tuning(vlm, tuning)
    data = build_data(config.data, vlm, seed=config.seed)
    module = VLMModule(vlm, optimizer=optimizer, tuning=tuning)
    trainer: pl.Trainer = build(
        config.trainer,
        default_root_dir=str(folder),
        callbacks=list(build(config.callbacks).values()),
    )
    trainer.fit(module, datamodule=data)
    return folder
