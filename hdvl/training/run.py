"""From a configuration to a trained model: stage after stage, each from the weights of the one before.

::

    RUN/train.yaml              the config of the run
    RUN/1-align/                one folder a stage (the run folder itself without stages):
        checkpoints/            last.ckpt, previous.ckpt
        metrics.csv, events...  what was logged
        finished                there once the stage is through
    RUN/model/                  the trained model
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy

from hdvl.checkpoints import load_folder, save_folder
from hdvl.checkpoints.known import check_run
from hdvl.config import build, from_plain, to_plain
from hdvl.files import read_yaml
from hdvl.model import VLM
from hdvl.training.checkpoint_formats import checkpoint_step, kind_of, read_weights
from hdvl.training.checkpointing import Checkpoints, find_checkpoint, step_seed
from hdvl.training.checks import check_stage
from hdvl.training.metrics import drop_rows_from
from hdvl.training.module import VLMModule
from hdvl.training.ranks import is_rank_zero
from hdvl.training.stages import set_value, split_stages
from hdvl.training.start import started_from
from hdvl.training.trainer_precision import leave_numbers
from hdvl.training.tuning import apply_tuning, merge_lora

BuildData = Callable[..., pl.LightningDataModule]
CONFIG, FINISHED, MODEL = "train.yaml", "finished", "model"


class Stopped(Exception):
    """Ctrl-C was pressed, and everything is saved."""


def run(config: Mapping[str, Any], build_data: BuildData) -> Path:
    """Train the model that ``config`` describes; returns the folder of the trained model.

    Args:
        config: plain data, interpolations unresolved (see :func:`resumed` for a run to go on with).
        build_data: gives the data module for (the stage's ``data`` config, the VLM, ``seed=``).

    Raises:
        Stopped: by Ctrl-C, with the command to go on.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = Path(config["run_dir"])
    stages = [from_plain(stage) for stage in split_stages(config)]  # wrong stages show here
    for stage in stages:
        check_stage(to_plain(stage))
    whole = from_plain({key: value for key, value in config.items() if key != "stages"})
    _write_config(config, folder)
    pl.seed_everything(whole.seed, verbose=False)
    allow = config.get("allow") or ()
    if whole.init_from is not None:
        whole.model = started_from(to_plain(whole.model), whole.init_from, allow=allow)
    vlm: VLM = build(whole.model)
    if whole.init_from is not None:
        vlm.load_state_dict(load_folder(whole.init_from, allow=allow).state_dict())
    for number, stage in enumerate(stages):
        if len(stages) > 1 and is_rank_zero():
            print(f"stage {number + 1} of {len(stages)}: {Path(stage.run_dir).name}", flush=True)
        torch.manual_seed(step_seed(whole.seed, number))  # the adapters' first weights
        if not train_stage(vlm, stage, build_data):
            raise Stopped(f"stopped and saved; go on with: hdvl train resume={folder}")
        merge_lora(vlm)
    node = {"model": to_plain(whole.model)}
    return save_folder(vlm, folder / MODEL, node) if is_rank_zero() else folder / MODEL


def train_stage(vlm: VLM, config: Any, build_data: BuildData) -> bool:
    """Train ``vlm`` in place as one stage's ``config`` says; false if it was interrupted.

    Goes on from the checkpoint in the stage's folder; a finished stage only reads its weights.
    """
    folder = Path(config.run_dir)
    tuning, optimizer = to_plain(config.tuning), to_plain(config.optimizer)
    apply_tuning(vlm, tuning)
    callbacks = list(build(config.callbacks).values())
    saver = next((item for item in callbacks if isinstance(item, Checkpoints)), None)
    checkpoint = None if saver is None else find_checkpoint(saver.folder)
    done = folder / FINISHED
    if done.exists() and checkpoint and int(done.read_text()) >= config.trainer.max_steps:
        read_weights(checkpoint, vlm)
        return True
    if checkpoint is not None and is_rank_zero():
        step = checkpoint_step(checkpoint)
        drop_rows_from(folder / "metrics.csv", step)
        print(f"goes on from step {step} of {checkpoint}", flush=True)
    data = build_data(config.data, vlm, seed=config.seed)
    weighting = optimizer.get("weighting", "token")
    module = VLMModule(
        vlm,
        optimizer=optimizer,
        tuning=tuning,
        weighting=weighting,
        first_token_weight=optimizer.get("first_token_weight", 1.0),
    )
    options = {"default_root_dir": str(folder), "callbacks": callbacks}
    with warnings.catch_warnings():
        _ignore_advice()
        trainer: pl.Trainer = build(config.trainer, **options)
        leave_numbers(trainer)
        _check_checkpoint(checkpoint, trainer)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if saver is not None and saver.interrupted:
        return False
    module.finish()
    if is_rank_zero():
        done.write_text(f"{config.trainer.max_steps}\n")
    return True


def resumed(
    folder: str | Path, changes: Mapping[str, Any], *, allow: str | Sequence[str] = ()
) -> dict[str, Any]:
    """The config of the run in ``folder`` with ``changes`` (dotted keys), to go on with.

    Args:
        folder: a run folder, whose config may name what ``conf/`` and hdvl's parts have.
        changes: the caller's own, which may name anything.
        allow: packages besides that the config in the folder may name.

    Raises:
        ValueError: no run there, a config that names something else, or a key that it lacks.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"resume must be a run folder with {CONFIG}, {str(folder)!r} has none")
    config: dict[str, Any] = read_yaml(path)
    check_run(config, source=path, allow=allow)
    config["allow"] = [allow] if isinstance(allow, str) else list(allow)
    for key, value in changes.items():
        set_value(config, key, value)
    config["run_dir"], config["resume"] = str(folder), str(folder)  # it may have been moved
    return config


def _check_checkpoint(checkpoint: Path | None, trainer: pl.Trainer) -> None:
    """A strategy reads what one of its kind wrote."""
    kinds = ((ModelParallelStrategy, "fsdp2"), (DeepSpeedStrategy, "deepspeed"))
    own = next((kind for base, kind in kinds if isinstance(trainer.strategy, base)), "ddp")
    if checkpoint is not None and kind_of(checkpoint) != own:
        raise ValueError(
            f"trainer.strategy must be that of trainer={kind_of(checkpoint)}, which wrote {checkpoint}, "
            f"got that of trainer={own}; leave it as it was"
        )


def _write_config(config: Mapping[str, Any], folder: Path) -> None:
    if not is_rank_zero():
        return
    path = folder / CONFIG
    if path.exists() and config["resume"] is None:
        raise ValueError(
            f"run_dir must be a new folder, {str(folder)!r} holds a run; go on with it by "
            f"resume={folder} or choose another run_dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.part")
    fresh.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    fresh.replace(path)  # other ranks may be reading it


def _ignore_advice() -> None:
    """Lightning's advice that does not hold here."""
    for message in (
        ".*does not have many workers.*",  # a choice of the config
        ".*ended before the epoch ended.*",  # the data module goes on at its sample
        ".*Total length of `list` across ranks is zero.*",  # no validation data were given
        ".*in eval mode at the start of training.*",  # frozen parts
        ".*overridden `transfer_batch_to_device`.*",  # the module's is the one that is meant
        ".*treespec, LeafSpec.*",  # between Lightning and torch
        ".*GPU available but not used.*",
    ):
        warnings.filterwarnings("ignore", message=message)
