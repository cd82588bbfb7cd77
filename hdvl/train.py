"""``hdvl train``: compose a model, its data and its training, and run it."""

import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hdvl.command import command
from hdvl.composition import fine_tuned, started
from hdvl.config import given_values, given_words, resolve
from hdvl.overrides import check_renamed
from hdvl.plain import dotted_keys

TYPED: list[str] = []
"""The words of the command line before they are quoted for Hydra."""


def run_config(plain: dict[str, Any]) -> None:
    """Train what the configuration describes, or go on with ``resume=RUN``.

    A run goes on with the config it was started with; ``key=value`` changes it, choices of groups
    are not taken. Exit code 130 after Ctrl-C, 143 after SIGTERM.
    """
    with _stopped_before_training():
        from hdvl.data.build import build_data
        from hdvl.training.ranks import is_rank_zero, one_run_dir
        from hdvl.training.run import resumed, run
        from hdvl.training.stages import check_effect
        from hdvl.training.stopping import Stopped

        given = given_values()
        if plain["resume"] is None:
            plain = fine_tuned(started(plain, given), given)
            # ${now:} is a time: written down once
            plain["run_dir"] = one_run_dir(own_folder(resolve(plain)), given)
        else:
            resume = str(resolve({"resume": plain["resume"]})["resume"])
            changes = changed_values(given)
            plain = resumed(resume, changes, allow=changes.pop("allow", ()))
            for key in dotted_keys(plain):
                check_renamed(key)
        check_effect(plain, given)
        code = 0
        try:
            text = ended(run(plain, build_data, command_line=command_line()))
        except Stopped as stop:
            text, code = str(stop), stop.code
        if is_rank_zero():
            print(text)
    if code:
        sys.exit(code)


@contextmanager
def _stopped_before_training() -> Iterator[None]:
    """A signal outside of a training ends the command with one line too; what is written is whole."""

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


def ended(model: Path) -> str:
    """What a finished run prints: where its model and its plots are, and what to type next."""
    run_dir = model.parent
    plots = sorted(str(path) for path in run_dir.glob("**/losses.png"))
    return "\n".join(
        [
            f"the model is in {model}",
            *([f"plots      {', '.join(plots)}"] if plots else []),
            f'next       hdvl infer checkpoint={run_dir} image=FILE prompt="..."',
            f"           hdvl compare {run_dir} OTHER_RUN",
        ]
    )


def command_line() -> str:
    """What was typed, as a shell would take it; of a job of a sweep what this job alone would be."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return shlex.join(["hdvl", "train", *(given_words() if sweep else TYPED)])


def own_folder(config: Mapping[str, Any]) -> str:
    """The run folder of a resolved config; of a job of a sweep a folder in it."""
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from hdvl.training.ranks import launched

    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return str(config["run_dir"])
    alone = 1 if torch.cuda.device_count() > 1 else "auto"
    devices = config["trainer"]["devices"]
    if devices not in (1, alone) and not launched():
        raise ValueError(
            "trainer.devices must be 1 with --multirun, or each process of a job would sweep, got "
            f"{devices}; start the jobs one by one, or by a launcher (torchrun, SLURM)"
        )
    return f"{config['run_dir']}/{job.job.num}"


def changed_values(given: dict[str, Any]) -> dict[str, Any]:
    """The words ``given`` but for ``resume``."""
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
    """The command."""
    TYPED[:] = sys.argv[1:]
    command("train", run_config, resolved=False, checkpoint="init_from")


if __name__ == "__main__":
    main()
