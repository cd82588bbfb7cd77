"""``hdvl train``: compose a model, its data and its training, and run it."""

from typing import Any

import hydra

from hdvl.config import CONF_DIR


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(config: Any) -> None:
    """Train what the configuration describes."""
    from hdvl.training.run import run

    run(config)


if __name__ == "__main__":
    main()
