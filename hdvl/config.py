"""Where the configuration lies, how it is composed, and the only ``instantiate`` of the project.

Knows Hydra and nothing of hdvl.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
# In a wheel ``conf/`` lies inside the package, in a checkout (editable or bare) beside it.
CONF_DIR = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


def compose(*overrides: str, config_name: str = "train", return_hydra: bool = False) -> Any:
    """Compose ``conf/{config_name}.yaml`` with command-line style ``overrides``.

    ``compose("model=xverse_v_13b", "llm=tiny")`` gives the same config as the command line would.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():  # inside a running command: reuse its search path
        return hydra_compose(config_name, list(overrides), return_hydra_config=return_hydra)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra_compose(config_name, list(overrides), return_hydra_config=return_hydra)


def build(node: Any, **kwargs: Any) -> Any:
    """Build the object that a config ``node`` (with ``_target_``) describes.

    Nested nodes are built first; lists and dicts arrive as plain Python values. ``node`` may be plain
    itself (:func:`to_plain`).
    """
    from hydra.utils import instantiate

    if isinstance(node, dict):  # said inside it, the option costs no further copy of the node
        return instantiate({**node, "_convert_": "all"}, **kwargs)
    return instantiate(node, _convert_="all", **kwargs)


def to_plain(node: Any) -> Any:
    """The config as plain dicts and lists, interpolations resolved: what a checkpoint stores."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def from_plain(node: dict[str, Any]) -> Any:
    """The inverse of :func:`to_plain`."""
    from omegaconf import OmegaConf

    return OmegaConf.create(node)


def given_values() -> dict[str, Any]:
    """The ``key=value`` words of the command line of a running command; none outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    if not HydraConfig.initialized():
        return {}
    # As they were written: a word may hold an interpolation.
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    words = OverridesParser.create().parse_overrides(given)
    return {word.key_or_group: word.value() for word in words}


@contextmanager
def exit_with_message(command: str) -> Iterator[None]:
    """What inputs and parts say against each other ends ``command``: exit code 1 with the reason alone."""
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except InstantiationException as error:
        # Hydra wraps what a part said; the part said it better.
        sys.exit(f"hdvl {command}: {error.__cause__ or error}")
    except (ValueError, OSError, ImportError, OmegaConfBaseException) as error:
        sys.exit(f"hdvl {command}: {error}")
