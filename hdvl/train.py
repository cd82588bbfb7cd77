"""``hdvl train``: compose a model, its data and its training, and run it."""

import sys
from typing import Any

import hydra

from hdvl.config import CONF_DIR


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(config: Any) -> None:
    """Train what the configuration describes, or go on with ``resume=RUN``.

    A run goes on with the config it was started with; ``key=value`` changes it, choices of groups
    are not taken. Exit code 130 after Ctrl-C.
    """
    from omegaconf import OmegaConf

    from hdvl.data.build import build_data
    from hdvl.training.ranks import leads, one_run_dir
    from hdvl.training.run import Stopped, resumed, run

    if config.resume is None:
        plain: Any = OmegaConf.to_container(config, resolve=False)
        # ${now:} is a time: written down once
        plain["run_dir"] = one_run_dir(str(config.run_dir), given_values())
    else:
        plain = resumed(config.resume, changed_values())
    code = 0
    try:
        text = f"the model is in {run(plain, build_data)}"
    except Stopped as stop:
        text, code = str(stop), 130
    if leads():
        print(text)
    if code:
        sys.exit(code)


def given_values() -> dict[str, Any]:
    """The ``key=value`` words of the command line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    return {word.key_or_group: word.value() for word in words}


def changed_values() -> dict[str, Any]:
    """Those words but for ``resume``."""
    from hydra.core.hydra_config import HydraConfig

    groups = HydraConfig.get().runtime.choices
    values = {name: value for name, value in given_values().items() if name != "resume"}
    for name in values:
        if name in groups or name == "run_dir":
            raise ValueError(
                f"resume takes the run's own config, {name} cannot be changed; drop it"
            )
    return values


if __name__ == "__main__":
    main()
