"""``hdvl train``: compose a model, its data and its training, and run it."""

import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hdvl.command import command, plain_config, reason_of
from hdvl.composition import with_fine_tuning, with_init_from
from hdvl.config import compose, given_values, given_words, resolve, values_of
from hdvl.overrides import check_renamed, keys_of, split_options
from hdvl.plain import dotted_keys

TYPED: list[str] = []
"""The arguments of the command line before they are quoted for Hydra."""
JOB_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError)
"""Errors of a job after which a sweep continues with the next job, such as a loss that is not finite."""
SWEEP: list[Path] = []
"""The folder of the sweep that this process runs, after its jobs were checked."""


class JobFailed(Exception):
    """A job of a sweep failed; the sweeper chooses the next one."""


def run_config(plain: dict[str, Any]) -> float | None:
    """Run the training of the configuration, or resume the run of ``resume=RUN``.

    A resumed run uses the config that it was started with; ``key=value`` changes it, and choices of groups
    are refused. The exit code is 130 after Ctrl-C and 143 after SIGTERM. With ``--multirun`` this is one
    job of a sweep, and the loss that a sweeper minimises is returned.
    """
    with _stopped_before_training():
        if is_sweep():
            return run_job(plain)
        text, code = train(plain, given_values())
        print_on_rank_zero(text)
    if code:
        sys.exit(code)
    return None


def train(plain: Mapping[str, Any], given: dict[str, Any]) -> tuple[str, int]:
    """Train with the composed config ``plain``; ``given`` are the overrides of the command line.

    Returns:
        The text to print at the end on rank zero, and the exit code.
    """
    from hdvl.data.build import build_data
    from hdvl.training.ranks import is_rank_zero
    from hdvl.training.run import run
    from hdvl.training.stopping import Stopped

    config = final_config(plain, given)
    try:
        model = run(config, build_data, command_line=command_line(config["run_dir"]))
        return finished_text(model) if is_rank_zero() else "", 0
    except Stopped as stop:
        return str(stop), stop.code


def final_config(plain: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the run: that of the command line, or that of the resumed run with changes."""
    from hdvl.training.ranks import one_run_dir
    from hdvl.training.run import resumed
    from hdvl.training.stages import check_effect

    if plain["resume"] is None:
        config = with_fine_tuning(with_init_from(plain, given), given)
        # resolved once, because ${now:} changes
        config["run_dir"] = one_run_dir(run_folder(resolve(config)), given)
    else:
        resume = str(resolve({"resume": plain["resume"]})["resume"])
        changes = changed_values(given)
        config = resumed(resume, changes, allow=changes.pop("allow", ()))
        for key in dotted_keys(config):
            check_renamed(key)
    check_effect(config, given)
    return config


def run_job(plain: Mapping[str, Any]) -> float | None:
    """Train one job of a sweep, and return its objective; the failure of a job is recorded.

    Before the first job all jobs are checked.

    Raises:
        JobFailed: the job failed, and the sweeper needs to know it to choose the next job.
    """
    from hydra.core.hydra_config import HydraConfig

    from hdvl.training.ranks import is_rank_zero
    from hdvl.training.sweeps import FINISHED, RUNNING, read_job, write_job

    hydra, given = HydraConfig.get(), given_values()
    folder, number = Path(hydra.sweep.dir) / str(hydra.job.num), int(hydra.job.num)
    jobs = sweep_jobs()
    if number == 0:
        check_jobs(jobs, Path(hydra.sweep.dir))
        SWEEP.append(Path(hydra.sweep.dir))
    choices = {key.lstrip("+"): value for key, value in keys_of(given_words())}
    place = f"job {number}" + (f" ({number + 1} of {len(jobs)})" if jobs else "")
    swept = [word for word in given_words() if not all(word in job for job in jobs)] if jobs else []
    print_on_rank_zero(
        f"\n{place} in {folder}: {' '.join(swept or given_words()).replace('++', '')}"
    )
    if is_rank_zero():
        write_job(folder, choices, RUNNING)
    begun, status, code = time.monotonic(), FINISHED, 0
    try:
        text, code = train(plain, given)
        status = "stopped" if code else FINISHED
    except JOB_ERRORS as error:
        status = f"failed: {reason_of(error, 'train')}"
        text = ""
        if os.environ.get("HYDRA_FULL_ERROR"):
            traceback.print_exc()
    if is_rank_zero():
        write_job(folder, choices, status, time.monotonic() - begun)
    if code:
        print_on_rank_zero(text)
        report_sweep()
        sys.exit(code)
    objective = read_job(folder).objective() if status == FINISHED else None
    loss = "" if objective is None else f", loss {objective:.4g}"
    print_on_rank_zero(f"{place} {status}{loss}")
    if status != FINISHED and not jobs:
        raise JobFailed(status)
    return objective


def sweep_jobs() -> list[list[str]]:
    """Return the overrides of each job of the sweep; empty if the sweeper chooses jobs by earlier results."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not str(HydraConfig.get().sweeper.get("_target_", "")).endswith(".BasicSweeper"):
        return []
    _, words = split_options(sys.argv[1:])
    parsed = OverridesParser.create().parse_overrides(words)
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def check_jobs(jobs: Sequence[Sequence[str]], sweep: Path) -> None:
    """Make the checks of a run for every job of a sweep, before the first one trains.

    Raises:
        ValueError: some jobs cannot run; the message gives the reason for each.
    """
    from hdvl.data.build import build_data
    from hdvl.training.run import check_run_config
    from hdvl.training.stages import check_effect

    wrong = list[str]()
    for number, words in enumerate(jobs):
        own = [word for word in words if not word.startswith("hydra.")]
        try:
            plain = plain_config(compose(*own, config_name="train"), own, resolved=False)
            given = values_of(own)
            config = with_fine_tuning(with_init_from(plain, given), given)
            check_effect(config, given)
            run_folder(resolve(config))  # refuses several devices
            check_run_config({**config, "run_dir": str(sweep / str(number))}, build_data)
        except (ValueError, TypeError, OSError, ImportError) as error:
            swept = " ".join(word for word in own if not all(word in job for job in jobs))
            wrong.append(f"job {number} ({swept}): {reason_of(error, 'train')}")
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(jobs)} jobs cannot run, none was started: {'; '.join(wrong)}"
        )


def report_sweep() -> int:
    """Print and write the table of the finished sweep, if any, and return the number of failed jobs."""
    from hdvl.training.ranks import is_rank_zero
    from hdvl.training.sweeps import FINISHED, read_jobs, sweep_text, write_report

    if not SWEEP:
        return 0
    jobs = read_jobs(SWEEP[0])
    if is_rank_zero():
        files = ", ".join(map(str, write_report(SWEEP[0], jobs)))
        print(f"\n{sweep_text(jobs)}\n\nthe table is in {files}")
        print(f"next       hdvl compare {SWEEP[0]}")
    return sum(job.status != FINISHED for job in jobs)


def is_sweep() -> bool:
    """Return whether this is a job of ``--multirun``."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def print_on_rank_zero(text: str) -> None:
    """Print ``text`` in the process of rank zero."""
    from hdvl.training.ranks import is_rank_zero

    if is_rank_zero():
        print(text, flush=True)


@contextmanager
def _stopped_before_training() -> Iterator[None]:
    """Let SIGINT and SIGTERM outside of a training end the command with one line."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else int(signal.SIGINT)
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        print(
            f"hdvl train: {name} came while nothing was training; run the command again",
            file=sys.stderr,
        )
        sys.exit(128 + number)
    finally:
        signal.signal(signal.SIGTERM, old)


def finished_text(model: Path) -> str:
    """Return the text that a finished run prints: the paths of model and plots, and the next commands."""
    import yaml

    from hdvl.checkpoints.known import foreign_packages
    from hdvl.checkpoints.native import CONFIG

    run_dir = model.parent
    packages = foreign_packages(yaml.safe_load((model / CONFIG).read_text(encoding="utf-8")))
    allow = f" allow=[{','.join(packages)}]" if packages else ""
    plots = sorted(str(path) for path in run_dir.glob("**/losses.png"))
    return "\n".join(
        [
            f"the model is in {model}",
            *([f"plots      {', '.join(plots)}"] if plots else []),
            f'next       hdvl infer checkpoint={run_dir}{allow} image=FILE prompt="..."',
            f"           hdvl chat checkpoint={run_dir}{allow}",
            f"           hdvl compare {run_dir} OTHER_RUN",
        ]
    )


def command_line(run_dir: str) -> str:
    """Return the command line, quoted for a shell; for a job of a sweep one that runs this job alone."""
    if not is_sweep():
        return shlex.join(["hdvl", "train", *TYPED])
    words = [word for word in given_words() if not word.startswith("run_dir=")]
    return shlex.join(["hdvl", "train", *words, f"run_dir={run_dir}"])


def run_folder(config: Mapping[str, Any]) -> str:
    """Return the run folder of a resolved config; for a job of a sweep a folder in it."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from hdvl.training.ranks import launched

    if not is_sweep():
        return str(config["run_dir"])
    alone = 1 if torch.cuda.device_count() > 1 else "auto"
    devices = config["trainer"]["devices"]
    if devices not in (1, alone) and not launched():
        raise ValueError(
            "trainer.devices must be 1 with --multirun, or each process of a job would sweep, got "
            f"{devices}; start the jobs one by one, or by a launcher (torchrun, SLURM)"
        )
    job = HydraConfig.get()
    return f"{job.sweep.dir}/{job.job.num}"


def changed_values(given: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides ``given`` without ``resume``."""
    from hydra.core.hydra_config import HydraConfig

    groups = HydraConfig.get().runtime.choices
    values = {name: value for name, value in given.items() if name != "resume"}
    for name in values:
        if name in groups or name == "run_dir":
            raise ValueError(
                f"resume takes the run's own config, {name} cannot be changed; drop it"
            )
    return values


def main() -> None:
    """Run the command."""
    TYPED[:] = sys.argv[1:]
    command("train", run_config, resolved=False, checkpoint="init_from")
    if report_sweep():
        sys.exit(1)


if __name__ == "__main__":
    main()
