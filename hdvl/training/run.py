"""Trains a model in stages, each of which starts from the weights of the previous one.

::

    RUN/train.yaml              the config of the run
    RUN/command.txt             the command lines that started and resumed the run
    RUN/1-align/                one folder per stage (the run folder itself without stages):
        checkpoints/            last.ckpt, previous.ckpt
        metrics.csv, events...  logged values
        finished                written when the stage is complete
    RUN/model/                  the trained model
"""

import errno
import gc
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy

from hdvl.checkpoints import save_folder
from hdvl.checkpoints.known import check_run, foreign_packages
from hdvl.checkpoints.native import RUN_MODEL
from hdvl.checkpoints.sources import RUN_CONFIG, find_folder
from hdvl.compat.lightning import convert_weights_only
from hdvl.config import build, resolve
from hdvl.files import NO_ROOM, read_yaml, write_text
from hdvl.model import VLM
from hdvl.training.card import run_card
from hdvl.training.checkpoint_formats import checkpoint_step, kind_of, read_weights
from hdvl.training.checkpointing import Saver, find_checkpoint, step_seed
from hdvl.training.frozen import Source, source_of
from hdvl.training.hyperparameters import log_hyperparameters
from hdvl.training.lock import locked
from hdvl.training.metrics import drop_rows_after
from hdvl.training.module import VLMModule
from hdvl.training.preflight import (
    BuildData,
    build_trainer,
    callbacks_of,
    check_stages,
    ignore_advice,
)
from hdvl.training.ranks import is_rank_zero
from hdvl.training.saved import Validated, check_saved
from hdvl.training.stages import set_value, split_stages
from hdvl.training.start import load_start, started_from
from hdvl.training.stopping import Stopped as Stopped
from hdvl.training.stopping import ValidationStopped
from hdvl.training.tuning import apply_tuning, merge_lora

CONFIG, MODEL = RUN_CONFIG, RUN_MODEL
FINISHED, METRICS, COMMANDS = "finished", "metrics.csv", "command.txt"


def run(
    config: Mapping[str, Any], build_data: BuildData, *, command_line: str | None = None
) -> Path:
    """Train the model that ``config`` describes, and return the folder of the trained model.

    All stages are checked before anything is written. Only one process at a time can use a run folder.

    Args:
        config: plain data with unresolved interpolations, except for ``run_dir`` (see :func:`resumed` for
            resuming a run).
        build_data: returns the data module, given the ``data`` config of the stage, the VLM and ``seed``.
        command_line: the command line, which is appended to ``command.txt``.

    Raises:
        Stopped: after Ctrl-C or SIGTERM; the message has the command to resume. The model is saved.
        SavedModelDiffers: the saved model does not give the loss of the trained one.
        ValueError: ``config`` is wrong, the run folder contains another run or is in use, or a resumed
            run has no intact checkpoint.
        OSError: a file could not be written; the message names the last checkpoint and the command to
            resume.
    """
    stages, folder = check_run_config(config, build_data), Path(config["run_dir"])
    with _describing_full_disks(folder, stages), locked(folder):
        _check_folder(folder, stages, config["resume"] is not None)  # it may be in use by now
        _write_config(config, folder, stages, command_line)
        return _train(stages, build_data, folder)


def check_run_config(config: Mapping[str, Any], build_data: BuildData) -> list[dict[str, Any]]:
    """Make all checks of :func:`run`, and return the resolved config of each stage; nothing is written.

    Raises:
        ValueError: as :func:`run`.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    stages = [resolve(stage) for stage in split_stages(config)]
    folder, init_from = Path(config["run_dir"]), config["init_from"]
    allow = config.get("allow") or ()
    _check_folder(folder, stages, config["resume"] is not None)
    if init_from is not None:
        init_from = find_folder(init_from)
        for stage in stages:
            stage["model"] = started_from(stage["model"], init_from, allow=allow)
    with warnings.catch_warnings():
        ignore_advice()
        check_stages(stages, build_data, init_from)
    return stages


def _train(stages: Sequence[dict[str, Any]], build_data: BuildData, folder: Path) -> Path:
    seed, node, init_from = (stages[0][key] for key in ("seed", "model", "init_from"))
    pl.seed_everything(seed, verbose=False)
    vlm: VLM = build(node)
    if init_from is not None:
        new_parts, allow = (stages[0].get(key) or () for key in ("new_parts", "allow"))
        load_start(vlm, find_folder(init_from), new_parts, allow=allow)
    source = source_of(vlm, stages[0])
    for number, stage in enumerate(stages):
        if len(stages) > 1 and is_rank_zero():
            name = Path(stage["run_dir"]).name
            print(f"stage {number + 1} of {len(stages)}: {name}", flush=True)
        torch.manual_seed(step_seed(seed, number))  # for the initial weights of the adapters
        try:
            validated = train_stage(vlm, stage, build_data, folder, source)
        except Stopped as stop:
            if not stop.saved:
                raise
            merge_lora(vlm)
            _save_model(vlm, folder, stages[: number + 1])
            text = f"{stop}; the model as it is now is in {folder / MODEL}"
            raise Stopped(text, stop.code, saved=True) from None
        merge_lora(vlm)
        source.end_stage(stage["tuning"])
    _save_model(vlm, folder, stages)
    if is_rank_zero():
        steps: int = stages[-1]["trainer"]["max_steps"]
        del vlm, source  # the saved model takes their place in memory
        gc.collect()  # the trainer and the module refer to each other
        check_saved(folder / MODEL, validated, steps, allow=foreign_packages(node))
    return folder / MODEL


def _save_model(vlm: VLM, folder: Path, stages: Sequence[Mapping[str, Any]]) -> None:
    """Write the model folder on the first rank."""
    if is_rank_zero():
        save_folder(vlm, folder / MODEL, {"model": stages[0]["model"]}, **run_card(stages))


def train_stage(
    vlm: VLM, config: Mapping[str, Any], build_data: BuildData, run_dir: Path, source: Source
) -> list[Validated]:
    """Train ``vlm`` in place with one stage's resolved ``config``, and return batches of its last validation.

    Training continues from the checkpoint in the stage's folder. Of a finished stage only the weights
    are read. Checkpoints do not contain the frozen weights that ``source`` gives.

    Raises:
        Stopped: the training was interrupted.
    """
    folder = Path(config["run_dir"])
    tuning, optimizer = config["tuning"], config["optimizer"]
    steps: int = config["trainer"]["max_steps"]
    apply_tuning(vlm, tuning)
    with warnings.catch_warnings():
        ignore_advice()
        trainer = build_trainer(config)
    saver = next((item for item in callbacks_of(trainer) if isinstance(item, Saver)), None)
    checkpoint = None if saver is None else find_checkpoint(saver.folder)
    done = folder / FINISHED
    if done.exists() and checkpoint and int(done.read_text()) >= steps:
        read_weights(checkpoint, vlm, source.fill_in)
        return []
    step = 0 if checkpoint is None else checkpoint_step(checkpoint)
    if is_rank_zero():
        drop_rows_after(folder / METRICS, step)
        if checkpoint is not None:
            print(f"resuming from step {step} of {checkpoint}", flush=True)
    module = VLMModule(
        vlm,
        optimizer=optimizer,
        tuning=tuning,
        weighting=optimizer.get("weighting", "token"),
        first_token_weight=optimizer.get("first_token_weight", 1.0),
    )
    if _kind_of_trainer(trainer) == "ddp":
        module.source = source
    convert_weights_only(trainer)
    _check_checkpoint(checkpoint, trainer)
    data = build_data(config["data"], vlm, seed=config["seed"])
    if is_rank_zero():
        log_hyperparameters(trainer.loggers, config)
    try:
        with warnings.catch_warnings(), _stops(saver, run_dir):
            ignore_advice()
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        if stop.saved:
            module.finish()
        raise
    finally:
        data.teardown("fit")  # Lightning does not call it after an error or a signal
    module.finish()
    if is_rank_zero():
        write_text(done, f"{steps}\n")
    return module.validated


@contextmanager
def _stops(saver: Saver | None, run_dir: Path) -> Iterator[None]:
    """Raise Stopped if a signal ended the training in the body, whether or not it could be saved."""
    if saver is None:
        yield
        return
    on = f"resume with: hdvl train resume={run_dir}"
    signals = saver.signals
    try:
        yield
    except ValidationStopped:
        pass  # saved: what follows the body raises Stopped
    except SystemExit as error:  # from Lightning
        if signals.number is None:
            raise
        raise Stopped(f"stopped at once; {on}", signals.code) from error
    finally:
        signals.release()
    if saver.interrupted:
        raise Stopped(f"stopped and saved; {on}", signals.code, saved=True)


@contextmanager
def _describing_full_disks(folder: Path, stages: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Add to the error of a full or read-only disk which checkpoint is intact and how to resume."""
    try:
        yield
    except OSError as error:
        inside = str(error.filename or "").startswith(str(folder))
        if error.errno not in NO_ROOM and not (
            inside and error.errno in (errno.EACCES, errno.EPERM)
        ):
            raise
        place = error.filename or folder
        raise OSError(
            f"could not write {place}: {error.strerror}; {_last_checkpoint_text(stages)}; make room "
            f"there, then resume with: hdvl train resume={folder}"
        ) from error


def _last_checkpoint_text(stages: Sequence[Mapping[str, Any]]) -> str:
    """Describe the last intact checkpoint of a run."""
    for stage in reversed(stages):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = find_checkpoint(checkpoint_folder(stage))
            except ValueError:
                found = None
        if found is not None:
            return f"{found} of step {checkpoint_step(found)} is whole"
    return "no checkpoint was written before"


def resumed(
    folder: str | Path, changes: Mapping[str, Any], *, allow: str | Sequence[str] = ()
) -> dict[str, Any]:
    """Return the stored config of the run in ``folder`` with ``changes``, for resuming it.

    Args:
        folder: a run folder. Its config may only name classes from ``conf/`` and parts of hdvl.
        changes: dotted keys and values given by the caller, which may name any class.
        allow: further packages that the config in the folder may name.

    Raises:
        ValueError: there is no run, its config names another class, or a key does not exist.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"resume must be a run folder with {CONFIG}, {str(folder)!r} has none")
    config: dict[str, Any] = read_yaml(path)
    check_run(config, source=path, allow=allow)
    config["allow"] = [allow] if isinstance(allow, str) else list(allow)
    for key, value in changes.items():
        set_value(config, key, value)
    config["run_dir"], config["resume"] = str(folder), str(folder)  # the folder may have been moved
    return config


def _check_checkpoint(checkpoint: Path | None, trainer: pl.Trainer) -> None:
    """Check that a checkpoint was written by the same kind of strategy.

    Raises:
        ValueError: it was not.
    """
    own = _kind_of_trainer(trainer)
    if checkpoint is not None and kind_of(checkpoint) != own:
        raise ValueError(
            f"trainer.strategy must be that of trainer={kind_of(checkpoint)}, which wrote {checkpoint}, "
            f"got that of trainer={own}; leave it as it was"
        )


def _kind_of_trainer(trainer: pl.Trainer) -> str:
    """Return what :func:`kind_of` returns for the checkpoints that ``trainer`` writes."""
    kinds = ((ModelParallelStrategy, "fsdp2"), (DeepSpeedStrategy, "deepspeed"))
    return next((kind for base, kind in kinds if isinstance(trainer.strategy, base)), "ddp")


def _check_folder(folder: Path, stages: Sequence[Mapping[str, Any]], resume: bool) -> None:
    """Check that no other run is overwritten, and that a resumed run has checkpoints.

    A folder in which no optimizer step was made may be used again.
    """
    if not is_rank_zero():
        return
    if resume:
        _check_can_resume(stages, folder)
        return
    files = list(folder.glob("*")) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run_dir must be a folder, {str(folder)!r} is a file; choose another")
    places = {folder, *(path for path in files if path.is_dir())}
    saved = any(any(checkpoint_folder(stage).glob("*.ckpt")) for stage in stages)
    if saved or (folder / MODEL).exists() or any(_has_trained(place) for place in places):
        raise ValueError(
            f"run_dir must be a new folder, {str(folder)!r} contains a run; resume it with "
            f"resume={folder} or choose another run_dir"
        )


def _has_trained(place: Path) -> bool:
    """Return whether a stage in the folder ``place`` has made an optimizer step."""
    if (place / FINISHED).exists() or any((place / "checkpoints").glob("*.ckpt")):
        return True
    metrics = place / METRICS
    return metrics.is_file() and len(metrics.read_text().splitlines()) > 1


def checkpoint_folder(stage: Mapping[str, Any]) -> Path:
    """Return the folder of a stage's checkpoints."""
    node = stage["callbacks"].get("checkpoints") or {}
    return Path(node.get("folder", f"{stage['run_dir']}/checkpoints"))


def _check_can_resume(stages: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Check that the checkpoints of finished stages exist, so that they are not trained again.

    A model folder alone does not mean that a run is finished, because a run that was stopped has one too.
    """
    saved = [find_checkpoint(checkpoint_folder(stage)) is not None for stage in stages]
    for number, stage in enumerate(stages):
        finished = (Path(stage["run_dir"]) / FINISHED).exists() or any(saved[number + 1 :])
        if not saved[number] and (finished or ((folder / MODEL).exists() and not any(saved))):
            raise ValueError(
                f"resume needs the checkpoints of {stage['run_dir']}, whose training is finished, and they "
                "are gone; put them back, or start a new run in another run_dir"
            )


def _write_config(
    config: Mapping[str, Any],
    folder: Path,
    stages: Sequence[Mapping[str, Any]],
    command_line: str | None,
) -> None:
    if not is_rank_zero():
        return
    if config["resume"] is None:
        _clear_stages(stages)
    if command_line is not None:
        lines = folder / COMMANDS
        old = lines.read_text(encoding="utf-8") if config["resume"] and lines.exists() else ""
        write_text(lines, f"{old}{command_line}\n")
    # Written atomically, because other ranks may be reading it.
    write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _clear_stages(stages: Sequence[Mapping[str, Any]]) -> None:
    """Remove the files of an earlier run without a step from the folders of the stages."""
    for stage in stages:
        place = Path(stage["run_dir"])
        for file in (*place.glob("events.out.tfevents.*"), place / "first_batch.html"):
            file.unlink(missing_ok=True)
