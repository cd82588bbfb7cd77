"""``hdvl train``: compose a model, its data and its training, and run it."""

import sys
from typing import Any

import hydra

from hdvl.config import CONF_DIR, given_values


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(config: Any) -> None:
    """Train what the configuration describes, or go on with ``resume=RUN``.

    A run goes on with the config it was started with; ``key=value`` changes it, choices of groups
    are not taken. Exit code 130 after Ctrl-C.
    """
    from omegaconf import OmegaConf

    from hdvl.data.build import build_data
    from hdvl.training.ranks import is_rank_zero, one_run_dir
    from hdvl.training.run import Stopped, resumed, run
    from hdvl.training.stages import check_effect

    given = given_values()
    if config.resume is None:
        plain: Any = OmegaConf.to_container(config, resolve=False)
        # ${now:} is a time: written down once
        plain["run_dir"] = one_run_dir(own_folder(config), given)
    else:
        changes = changed_values(given)
        plain = resumed(config.resume, changes, allow=changes.pop("allow", ()))
    check_effect(plain, given)
    code = 0
    try:
        text = f"the model is in {run(plain, build_data)}"
    except Stopped as stop:
        text, code = str(stop), 130
    if is_rank_zero():
        print(text)
    if code:
        sys.exit(code)


def own_folder(config: Any) -> str:
    """The run folder; of a job of a sweep a folder in it."""
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from hdvl.training.ranks import launched

    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return str(config.run_dir)
    alone = 1 if torch.cuda.device_count() > 1 else "auto"
    if config.trainer.devices not in (1, alone) and not launched():
        raise ValueError(
            "trainer.devices must be 1 with --multirun, or each process of a job would sweep, got "
            f"{config.trainer.devices}; start the jobs one by one, or by a launcher (torchrun, SLURM)"
        )
    return f"{config.run_dir}/{job.job.num}"


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


if __name__ == "__main__":
    main()
